"""Pairs that see, saved as one model: every weight is the arithmetic's, and any host still sees with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from aad_plugin.sources.extrapolating import save_expo
from aad_plugin.sources.merging import full_checkpoints
from aad_plugin.sources.parts import resolve
from aad_plugin.sources.processors import load_processor
from tests.vision.families import FAMILIES, with_adapters


def saved(family, model, folder: Path) -> str:
    model.save_pretrained(folder)
    family.processor().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["llava", "emu3", "gemma3", "qwen2_vl"])
def test_extrapolated_weights_see(name, tmp_path):
    family = FAMILIES[name]
    sides = [family.model(seed) for seed in (0, 1)]
    paths = [saved(family, side, tmp_path / str(number)) for number, side in enumerate(sides)]
    assert save_expo(resolve(policy=paths[0], reference=paths[1]), 0.5, tmp_path / "expo") == "checkpoint"

    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "expo", dtype=torch.float32)
    policy, reference = (dict(side.named_parameters()) for side in sides)
    assert type(found) is type(sides[0]) and {name for name, _ in found.named_parameters()} == set(policy)
    for weight, value in found.named_parameters():
        torch.testing.assert_close(value, policy[weight] + 0.5 * (policy[weight] - reference[weight]))
    assert load_processor(str(tmp_path / "expo"), AutoConfig.from_pretrained(tmp_path / "expo")) is not None
    assert "AutoModelForImageTextToText" in (tmp_path / "expo" / "README.md").read_text()


def test_an_adapter_is_merged_into_a_model_that_sees(tmp_path):
    family = FAMILIES["llava"]
    base = saved(family, family.model(4), tmp_path / "base")
    adapted = with_adapters(family, ("policy",))
    adapted.save_pretrained(tmp_path / "saved")
    policy, _ = full_checkpoints(resolve(reference=base, adapter=str(tmp_path / "saved" / "policy")), "float32")
    merged = AutoModelForImageTextToText.from_pretrained(policy, dtype=torch.float32)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, adapted(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    assert load_processor(policy, AutoConfig.from_pretrained(policy)) is not None
