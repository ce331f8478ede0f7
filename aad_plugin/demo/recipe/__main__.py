"""Make the demo pair again: ``python -m aad_plugin.demo.recipe all --work runs/demo``, about an hour on two CPU cores.

Stages, each of which goes on where it was stopped: sample → pairs → dpo → reward → report. Needs ``aad_plugin[train]``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aad_plugin.demo.assets import base_model_path
from aad_plugin.demo.recipe import measure, pairs, sampling, training

STAGES = ("sample", "pairs", "dpo", "reward", "report")
SHIPPED = Path(__file__).parents[1]


def main() -> None:
    """Run the stages named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m aad_plugin.demo.recipe", description=__doc__)
    parser.add_argument("stages", nargs="+", choices=[*STAGES, "all"])
    parser.add_argument("--work", type=Path, required=True, help="folder for answers, pairs and checkpoints")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="where policy/, reward/ and figures.json go")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if "all" in options.stages else options.stages:
        _run(stage, base_model_path(), options.work, options.out)


def _run(stage: str, base: Path, work: Path, out: Path) -> None:
    if stage == "sample":
        for split in sampling.PLAN:
            sampling.sample_answers(base, split, work / f"answers_{split}.jsonl")
    elif stage == "pairs":
        count_tokens = measure.token_counter(base)
        for split in sampling.PLAN:
            answers = sampling.load_answers(work / f"answers_{split}.jsonl")
            pairs.save_pairs(pairs.build_pairs(split, answers, count_tokens), work / f"pairs_{split}.jsonl")
    elif stage == "dpo":
        training.train_policy(base, _pairs(work, "policy"), work / "dpo", out / "policy")
    elif stage == "reward":
        training.train_reward(base, _pairs(work, "reward"), work / "reward", out / "reward")
    else:
        measure.write_figures(base, work, out)


def _pairs(work: Path, split: str) -> list[pairs.Pair]:
    return [p for p in pairs.load_pairs(work / f"pairs_{split}.jsonl") if not p.held_out]


if __name__ == "__main__":
    main()
