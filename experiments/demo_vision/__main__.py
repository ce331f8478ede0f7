"""Make the demo pair that sees, from nothing but the demo base: pictures are drawn as they are needed.

    python -m experiments.demo_vision tower sft dpo report develop --work runs/demo-vision       # needs hours
    python -m experiments.demo_vision shipped                                            # needs minutes

Stages: tower (tower and connector learn colours, shapes and places), sft and dpo (by TRL), report (held-out accuracy with
the right picture and with another one). A killed stage goes on from its last checkpoint. The parts to ship are in
``WORK/out``. ``shipped`` measures the pair that the package ships, and ``develop`` AAD at some alphas on held-out pictures,
none of which is the task's.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from aad_plugin.demo.assets import base_model_path
from aad_plugin.demo.vision import put_together, vision_adapter_path, vision_reference_path
from aad_plugin.demo.vision_model import load_tower, new_vision_model, vision_processor
from experiments.demo_vision import dpo, held_out, sft, shipping, tower

STAGES = ("tower", "sft", "dpo", "report", "develop", "shipped")
SFT_STEPS, DPO_STEPS = 240, 200
ALPHAS, DEVELOPED = (0.1, 0.3), 50  # pictures


def main() -> None:
    """Run the stages named on the command line, in their order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=STAGES)
    parser.add_argument("--work", type=Path, default=Path("runs/demo-vision"))
    parser.add_argument("--sft-steps", type=int, default=SFT_STEPS)
    parser.add_argument("--dpo-steps", type=int, default=DPO_STEPS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    for stage in STAGES:
        if stage in options.stages:
            _run(stage, base_model_path(), options.work, options)


def _run(stage: str, base: Path, work: Path, options: argparse.Namespace) -> None:
    out, reference = work / "out", work / "reference"
    if stage == "tower":
        tower.train_tower(new_vision_model(base), vision_processor(base).tokenizer, work / "tower")
    elif stage == "sft":
        model = new_vision_model(base)
        load_tower(model, tower.saved_tower(work / "tower"))
        sft.train_sft(model, vision_processor(base), work / "sft", steps=options.sft_steps)
        shipping.export_reference(tower.saved_tower(work / "tower"), work / "sft", out / "reference")
        put_together(base, out / "reference", reference)
    elif stage == "dpo":
        dpo.train_dpo(reference, work / "dpo", steps=options.dpo_steps)
        shipping.export_policy(work / "dpo", out / "policy")
    elif stage == "report":
        policy = out / "policy"
        _tell(held_out.measure(reference, policy if policy.is_dir() else None), out / "figures.json")
    elif stage == "develop":
        _tell(held_out.by_strategy(reference, out / "policy", ALPHAS, held_out.SEEDS[:DEVELOPED]), out / "develop.json")
    else:
        _tell(held_out.measure(vision_reference_path(), vision_adapter_path()), None)


def _tell(found: dict[str, object], file: Path | None) -> None:
    text = json.dumps(found, indent=1) + "\n"
    print(text, end="")
    if file is not None:
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
