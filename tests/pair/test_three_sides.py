"""A pair with a third side: every kind of sides gives all of them, whatever a host does to their caches."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from aad_plugin.pair.cache import PairCache
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.one_base import OneBase
from aad_plugin.pair.sides import Sides
from aad_plugin.pair.sides_by_row import SidesByRow
from aad_plugin.pair.step import Step, whole_text
from tests.toys import PAD, VOCAB, left_pad, random_prompts, toy_model, with_adapters

ROLES = ("policy", "reference", "guide")


def checkpoints() -> Sides:
    return Checkpoints(toy_model("llama", 1), toy_model("llama", 2), guide=toy_model("llama", 3))


def one_base() -> Sides:
    return OneBase(with_adapters("llama", ("policy", "guide")), "policy", None, guide="guide")


KINDS = {
    "checkpoints": checkpoints,
    "one base": one_base,
    "in turns": lambda: one_base().apart(),
    "row by row": lambda: SidesByRow(checkpoints()),
}


def next_step(ids: torch.Tensor, mask: torch.Tensor, cache: PairCache) -> Step:
    """The last (B, T) ids of a text behind what the cache holds."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return Step(ids, cache, 1, mask, positions[:, -ids.shape[1] :])


@torch.no_grad()
def alone(sides: Sides, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each side says after every row, read by itself: no padding, no cache."""
    found = {}
    for role in ROLES:
        with sides.role(role) as model:
            rows = [model(input_ids=row[None, own.bool()]).logits[0, -1] for row, own in zip(ids, mask, strict=True)]
            found[role] = torch.stack(rows)
    return found


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_all_sides_say_what_they_say_alone(kind):
    sides = KINDS[kind]()
    assert sides.roles == ROLES
    ids, mask = left_pad(random_prompts([5, 9]))
    truth = alone(sides, ids, mask)
    assert not torch.allclose(truth["guide"], truth["policy"]) and not torch.allclose(
        truth["guide"], truth["reference"]
    )
    rows = sides.logits(ROLES, whole_text(ids, mask, keep=1))
    for role, row in zip(ROLES, rows, strict=True):
        torch.testing.assert_close(row[:, -1], truth[role], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["checkpoints", "one base", "in turns"])
@torch.no_grad()
def test_caches_of_three_sides_are_reordered_cropped_and_selected_together(kind):
    sides = KINDS[kind]()
    ids, mask = left_pad(random_prompts([5, 9]))
    cache = sides.new_cache(ROLES, lambda model: DynamicCache(config=model.config))
    assert isinstance(cache, PairCache) and cache.num_sides == 3
    sides.logits(ROLES, next_step(ids, mask, cache))
    wrong, next_ids = torch.tensor([[7], [8]]), torch.tensor([[9], [10]])
    longer = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
    sides.logits(ROLES, next_step(wrong, longer, cache))
    cache.crop(-1)  # a rejected draft
    cache.reorder_cache(torch.tensor([1, 0]))  # beams
    cache.batch_select_indices(torch.tensor([0]))
    ids, longer = torch.cat([ids[[1]], next_ids[:1]], dim=1), longer[[1]]
    rows = sides.logits(ROLES, next_step(next_ids[:1], longer, cache))
    for role, row in zip(ROLES, rows, strict=True):
        torch.testing.assert_close(row[:, -1], alone(sides, ids, longer)[role], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["checkpoints", "one base"])
def test_a_pair_of_three_sides_proves_all_of_them_and_decodes_as_the_two(kind):
    pair = AlignedPair(KINDS[kind](), vocab_size=VOCAB)
    assert pair.prove().avoided == ()
    two = (
        Checkpoints(toy_model("llama", 1), toy_model("llama", 2))
        if kind == "checkpoints"
        else OneBase(with_adapters("llama", ("policy", "guide")), "policy")
    )
    ids, mask = left_pad(random_prompts([5, 9]))
    plain = AlignedPair(two, vocab_size=VOCAB)
    options = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 12, "pad_token_id": PAD, "do_sample": False}
    assert pair.generate(**options).tolist() == plain.generate(**options).tolist()
    beams = options | {"num_beams": 2}
    assert pair.generate(**beams).tolist() == plain.generate(**beams).tolist()


@pytest.mark.parametrize("kind", ["checkpoints", "one base"])
def test_a_fault_of_the_third_side_is_found_by_the_proof(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("AAD_CACHE_DIR", str(tmp_path))  # nothing is remembered of this pair
    pair = AlignedPair(KINDS[kind](), vocab_size=VOCAB)
    logits = type(pair.sides).logits

    def swapped(self, roles, step):
        return logits(self, tuple("reference" if role == "guide" else role for role in roles), step)

    monkeypatch.setattr(type(pair.sides), "logits", swapped)
    assert any("guide" in said for said in pair.prove().avoided)
