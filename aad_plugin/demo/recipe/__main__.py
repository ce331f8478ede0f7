"""Make the demo pair again, in stages that go on where they were stopped. Needs ``aad_plugin[train]``; two CPU cores do.

python -m aad_plugin.demo.recipe dpo reward report --work runs/demo --out runs/demo/out
    trains on the shipped preference pairs (``preferences/``) and measures
python -m aad_plugin.demo.recipe sample pairs --work runs/demo
    samples new answers and builds new pairs, which the later stages then take instead of the shipped ones
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aad_plugin.demo.assets import base_model_path
from aad_plugin.demo.recipe import measure, pairs, sampling, training

STAGES = ("sample", "pairs", "dpo", "reward", "report")
PREFERENCES = Path(__file__).parent / "preferences"


def main() -> None:
    """Run the stages named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m aad_plugin.demo.recipe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stages", nargs="+", choices=[*STAGES, "all"])
    parser.add_argument("--work", type=Path, required=True, help="folder for answers, pairs and checkpoints")
    parser.add_argument("--out", type=Path, help="where policy/, reward/ and figures.json go; default: WORK/out")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if "all" in options.stages else options.stages:
        _run(stage, base_model_path(), options.work, options.out or options.work / "out")


def _run(stage: str, base: Path, work: Path, out: Path) -> None:
    if stage == "sample":
        for split in sampling.PLAN:
            sampling.sample_answers(base, split, work / f"answers_{split}.jsonl")
    elif stage == "pairs":
        count_tokens = measure.token_counter(base)
        for split in sampling.PLAN:
            answers = sampling.load_answers(work / f"answers_{split}.jsonl")
            pairs.save_pairs(pairs.build_pairs(split, answers, count_tokens), work / "preferences" / f"{split}.jsonl")
    elif stage == "dpo":
        training.train_policy(base, _training_pairs(work, "policy"), work / "dpo", out / "policy")
    elif stage == "reward":
        training.train_reward(base, _training_pairs(work, "reward"), work / "reward", out / "reward")
    else:
        measure.write_figures(base, {split: _pairs(work, split) for split in sampling.PLAN}, out)


def _pairs(work: Path, split: str) -> list[pairs.Pair]:
    own = work / "preferences" / f"{split}.jsonl"
    return pairs.load_pairs(own if own.exists() else PREFERENCES / own.name)


def _training_pairs(work: Path, split: str) -> list[pairs.Pair]:
    return [p for p in _pairs(work, split) if not p.held_out]


if __name__ == "__main__":
    main()
