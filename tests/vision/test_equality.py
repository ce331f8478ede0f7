"""Pairs that see choose what the naive two-model loop chooses: every family, both kinds of pair, alone and in a batch."""

from __future__ import annotations

import pytest

from aad_plugin import AlignedPair
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.multimodal import sees_apart
from aad_plugin.pair.one_base import OneBase
from aad_plugin.pair.sides_in_turns import OneBaseInTurns
from tests.vision.families import FAMILIES, Family, with_adapters
from tests.vision.oracle import PROMPTS, encode, naive, same

STEPS = 6
# One family of each kind of positions, masks and output; the others belong to the grid.
_QUICK = ("llava", "smolvlm", "qwen2_vl", "gemma3", "emu3")


def family_marks(names: tuple[str, ...] = _QUICK) -> list:
    grid = [pytest.mark.grid, pytest.mark.slow]
    return [pytest.param(family, id=name, marks=() if name in names else grid) for name, family in FAMILIES.items()]


def checkpoints(family: Family) -> tuple[AlignedPair, object, object]:
    policy, reference = family.model(0), family.model(1)
    pair = AlignedPair(Checkpoints(policy, reference))
    pair.prove()
    return pair, policy, reference


def decode(pair: AlignedPair, family: Family, prompts, alpha: float, shift: int = 0, **options) -> list[list[int]]:
    encoded = encode(family, prompts, shift)
    tokens = pair.generate(**encoded, alpha=alpha, max_new_tokens=STEPS, do_sample=False, pad_token_id=257, **options)
    return tokens[:, encoded["input_ids"].shape[1] :].tolist()


def hold(pair: AlignedPair, policy, reference, family: Family, alpha: float) -> None:
    """Every prompt alone, and the batch of four."""
    together = decode(pair, family, PROMPTS, alpha)
    for row, prompt in enumerate(PROMPTS):
        run = naive(policy, reference, family, prompt, STEPS, alpha)
        assert same(run, decode(pair, family, [prompt], alpha)[0]), f"alone, prompt {row}"
        assert same(run, together[row]), f"in a batch, prompt {row}"


@pytest.mark.parametrize("family", family_marks())
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_two_checkpoints(family: Family, alpha: float) -> None:
    pair, policy, reference = checkpoints(family)
    hold(pair, policy, reference, family, alpha)


@pytest.mark.parametrize("family", family_marks(("llava", "qwen2_vl", "gemma3")))
def test_one_base_reads_pictures_once(family: Family) -> None:
    model = with_adapters(family, ("policy",))
    apart = family.name == "chameleon"  # its decoder reads the pictures
    assert sees_apart(model) == apart
    adapters = {"policy": "policy", "reference": None}
    pair = AlignedPair(OneBaseInTurns(model, adapters) if apart else OneBase(model, "policy", None))
    pair.prove()
    assert pair.proof.path.startswith("one side" if apart else "shared rows"), pair.proof
    seen = []
    base = model.get_base_model()
    tower = base.model.get_image_features

    def count(*args, **given):
        seen.append(1)
        return tower(*args, **given)

    base.model.get_image_features = count
    decode(pair, family, PROMPTS, 0.1)
    assert len(seen) == (2 if apart else 1)
    del base.model.get_image_features
    together = {alpha: decode(pair, family, PROMPTS, alpha) for alpha in (0.1, 1.0)}
    alone = [decode(pair, family, [prompt], 0.1)[0] for prompt in PROMPTS]
    for row, prompt in enumerate(PROMPTS):
        for alpha in together:
            run = naive(PeftSide(model, "policy"), PeftSide(model, None), family, prompt, STEPS, alpha)
            assert same(run, together[alpha][row]), f"in a batch, prompt {row}, alpha {alpha}"
            assert alpha != 0.1 or same(run, alone[row]), f"alone, prompt {row}"


def test_adapters_of_the_tower_see_apart() -> None:
    family = FAMILIES["llava"]
    model = with_adapters(family, ("policy", "reference"), targets=r".*\.(q_proj|v_proj|linear_1)")
    assert sees_apart(model)
    pair = AlignedPair(OneBaseInTurns(model, {"policy": "policy", "reference": "reference"}))
    pair.prove()
    together = decode(pair, family, PROMPTS, 0.1)
    for row, prompt in enumerate(PROMPTS):
        run = naive(PeftSide(model, "policy"), PeftSide(model, "reference"), family, prompt, STEPS, 0.1)
        assert same(run, together[row]), f"prompt {row}"


class PeftSide:
    """One side of a PeftModel by PEFT's own switching, for the naive loop."""

    def __init__(self, model, adapter: str | None) -> None:
        self.model, self.adapter = model, adapter

    def __call__(self, **given):
        if self.adapter is None:
            with self.model.disable_adapter():
                return self.model.get_base_model()(**given)
        self.model.set_adapter(self.adapter)
        return self.model.get_base_model()(**given)


@pytest.mark.parametrize("family", family_marks())
def test_another_picture_gives_other_tokens(family: Family) -> None:
    pair, _, _ = checkpoints(family)
    one, other = (decode(pair, family, PROMPTS, 0.1, shift) for shift in (0, 10))
    assert one != other
    assert one[2] == other[2]  # the prompt without a picture
