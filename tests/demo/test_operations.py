"""What a step of the demo pair dispatches, in float32: the bounds of `tests/speed/test_operations.py` with real layers."""

from __future__ import annotations

import pytest
import torch

from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.model import load_pair
from aad_plugin.sources.merging import full_checkpoints
from aad_plugin.speed.operations import Counts, per_step

pytestmark = pytest.mark.slow


def test_a_step_costs_little_more_than_the_merged_policys(two_threads):
    lora = load_pair("demo", dtype="float32")
    policy, reference = full_checkpoints(lora.source, "float32")
    full = load_pair(policy=policy, reference=reference, dtype="float32")
    ids, mask = encode_prompts(lora, ["Hello"])

    def counted(model, **more) -> Counts:
        options = {"attention_mask": mask, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **more}
        with torch.no_grad():
            return per_step(lambda steps: model.generate(ids, max_new_tokens=steps, **options))

    plain = counted(full.sides.policy)
    found = {
        "LoRA, aad": (counted(lora), 1.35),
        "two checkpoints, aad": (counted(full), 2.1),
        "LoRA, greedy": (counted(lora, strategy="greedy"), 1.05),
    }
    print(f"greedy: {plain.operations:.0f} operations, {plain.waits:.0f} waits")
    for name, (counts, most) in found.items():
        ratio = counts.operations / plain.operations
        print(f"{name}: {counts.operations:.0f} operations ({ratio:.2f}), {counts.waits:.1f} waits")
        assert ratio <= most, name
