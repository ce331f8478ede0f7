"""Make the demo pair again, in stages that go on where they were stopped. Needs ``aad_plugin[train]``; two CPU cores do.

python -m experiments.demo_pair sets dpo reward report --work runs/demo
    trains both adapters by TRL's command line on the shipped preference pairs (``preferences/``) and measures them
python -m experiments.demo_pair labels sample pairs --work runs/demo
    before it: builds the label pairs again, samples new answers of the base and builds new dialogue pairs; the later
    stages then take these
python -m experiments.demo_pair sets dpo reward report --work runs/first --pair demo@1
    the first pair, trained on dialogue alone

Inputs: the base model (``aad_plugin.demo.assets``: wheel, version and sha256), ``prompts.json``, ``labels.json``,
``preferences/*.jsonl``, and the recipes ``dpo_demo`` and ``reward_demo`` (``…@1`` for the first pair) of
``aad_plugin/training/recipes``. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path

from aad_plugin.demo.assets import base_model_path
from experiments.demo_pair import labels, measure, pairs, sampling, shipped, training

STAGES = ("labels", "sample", "pairs", "sets", "dpo", "reward", "report")


def main(arguments: list[str] | None = None) -> None:
    """Run the stages named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.demo_pair",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stages", nargs="+", choices=[*STAGES, "all"])
    parser.add_argument("--work", type=Path, required=True, help="folder for answers, pairs, checkpoints and results")
    parser.add_argument("--pair", choices=list(shipped.FILES), default="demo", help="whose pairs and settings")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--share", type=float, default=1.0, help="of the training pairs that sets writes, in (0, 1]")
    parser.add_argument("--trl", default="", help='more options of trl, for dpo and reward: "--max_steps 12"')
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if "all" in options.stages else options.stages:
        _run(stage, base_model_path(), options)


def _run(stage: str, base: Path, options: argparse.Namespace) -> None:
    work, preset = options.work, options.pair
    out = work / "out"
    if stage == "labels":
        for split in sampling.PLAN:
            made = labels.build_label_pairs(split, measure.token_counter(base))
            pairs.save_pairs(made, work / "preferences" / f"{split}_labels.jsonl")
    elif stage == "sample":
        for split in sampling.PLAN:
            sampling.sample_answers(base, split, work / f"answers_{split}.jsonl")
    elif stage == "pairs":
        count_tokens = measure.token_counter(base)
        for split in sampling.PLAN:
            answers = sampling.load_answers(work / f"answers_{split}.jsonl")
            pairs.save_pairs(pairs.build_pairs(split, answers, count_tokens), work / "preferences" / f"{split}.jsonl")
    elif stage == "sets":
        for split in sampling.PLAN:
            made, policy = _pairs(work, preset, split), split == "policy"
            share = options.share if policy else 1.0
            training.write_sets(
                training.mostly_dialogue(made) if policy else made, work / "sets" / split, share=share, mark_cut=policy
            )
    elif stage in ("dpo", "reward"):
        split = "policy" if stage == "dpo" else stage
        trained = training.train(split, base, work, shlex.split(options.trl), preset=preset)
        training.export_adapter(trained, out / split)
    else:
        _report(base, work, preset)


def _report(base: Path, work: Path, preset: str) -> None:
    from aad_plugin.judges.kinds.reward import RewardModel
    from aad_plugin.pair.model import load_pair

    # Margins of held-out pairs are small: in bfloat16 the kernels decide two or three of them.
    pair = load_pair(reference=str(base), adapter=str(work / "policy"), dtype="float32")
    model = RewardModel.load(str(work / "reward"), dtype="float32")
    found = measure.figures(pair, model, {split: _pairs(work, preset, split) for split in sampling.PLAN})
    (work / "out" / "figures.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _pairs(work: Path, preset: str, split: str) -> list[pairs.Pair]:
    return shipped.shipped_pairs(preset, split, work / "preferences")


if __name__ == "__main__":
    main()
