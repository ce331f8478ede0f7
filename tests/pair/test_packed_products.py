"""Packed products give what plain ones give, where and when they are wanted, and keep no weight that is gone."""

from __future__ import annotations

import psutil
import pytest
import torch
from torch import nn

from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.packed_products import PackedProducts, _packable
from tests.pairs import KINDS, toy_pair
from tests.toys import random_prompts, toy_model

PACKABLE = sorted(_packable(), key=str)
packs = pytest.mark.skipif(not PACKABLE, reason="this processor multiplies nothing packed")
DTYPE = PACKABLE[0] if PACKABLE else torch.bfloat16


def layer(dtype=DTYPE, bias=True):
    torch.manual_seed(0)
    return nn.Linear(48, 80, bias=bias).to(dtype).eval()


def both(linear, x):
    """What a layer gives outside and inside, and how many weights were packed."""
    products = PackedProducts([linear])
    with torch.no_grad():
        plain = linear(x)
        with products.use("packed"):
            return plain, linear(x), len(products._packed)


@packs
@pytest.mark.parametrize("dtype", PACKABLE)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (3, 5, 48), (2, 1, 48)])
def test_a_packed_product_is_the_plain_one(bias, shape, dtype):
    plain, packed, number = both(layer(dtype, bias), torch.randn(shape, dtype=dtype))
    assert number == 1
    torch.testing.assert_close(packed, plain)


@pytest.mark.parametrize(
    ("dtype", "x"), [(torch.float64, torch.randn(2, 48).double()), (DTYPE, torch.empty(0, 48, dtype=DTYPE))]
)
def test_what_cannot_be_packed_stays_plain(dtype, x):
    plain, inside, number = both(layer(dtype), x)
    assert number == 0 and torch.equal(plain, inside)


def test_float32_is_packed_only_where_that_was_measured_to_pay():
    assert (torch.float32 in PACKABLE) == (torch.backends.cpu.get_cpu_capability() == "AVX2")


@packs
def test_gradients_take_the_plain_product():
    linear = layer()
    products = PackedProducts([linear])
    with products.use("packed"):
        linear(torch.randn(2, 48, dtype=DTYPE)).sum().backward()
    assert linear.weight.grad is not None and not products._packed


@packs
def test_auto_packs_only_what_fits(monkeypatch):
    x = torch.randn(1, 48, dtype=DTYPE)
    for free, number in ((10**9, 1), (4 * 48 * 80 * DTYPE.itemsize, 0)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: type("M", (), {"available": free}))
        products = PackedProducts([linear := layer()])
        with torch.no_grad(), products.use("auto"):
            linear(x)
        assert len(products._packed) == number


@packs
def test_new_weights_are_packed_anew():
    linear = layer()
    x = torch.randn(2, 48, dtype=DTYPE)
    products = PackedProducts([linear])
    with torch.no_grad(), products.use("packed"):
        linear(x)
        linear.weight.data = torch.ones(80, 48, dtype=DTYPE)
        found = linear(x)
        with products.use("none"):
            torch.testing.assert_close(found, linear(x))


@packs
@pytest.mark.parametrize("kind", KINDS)
def test_pairs_decode_the_same(kind):
    pair = toy_pair(kind).pair.to(DTYPE)
    ids = torch.tensor([random_prompts([12])[0]])
    for strategy in ("aad", "eft", "greedy"):
        found = []
        for shortcuts in ("lazy", "packed"):
            pair.shortcuts = shortcuts
            found.append(pair.generate(ids, max_new_tokens=12, strategy=strategy, eos_token_id=None).tolist())
        assert found[0] == found[1], strategy
    assert pair.sides.products._packed


@packs
def test_a_second_pair_over_one_model_packs_it_too():
    """Else its two sides would be rounded differently: a policy against a copy of itself leaves only its favourite."""
    policy = toy_model("llama", 0).to(DTYPE)
    first, second = (AlignedPair(Checkpoints(policy, toy_model("llama", seed).to(DTYPE))) for seed in (1, 0))
    ids = torch.tensor(random_prompts([9, 9]))
    for pair in (first, second):
        pair.shortcuts = "packed"
        pair.generate(ids, max_new_tokens=4)
    assert second.sides.products._packed.keys() > {id(policy.get_output_embeddings().weight)}
    found = [second.generate(ids, strategy=name, max_new_tokens=24, alpha=0.01).tolist() for name in ("aad", "greedy")]
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_is_packed_with_the_rest(kind, monkeypatch):
    """Layers are wrapped when packing is first wanted, a head that could also keep its sums among them."""
    pair = toy_pair(kind).pair
    layers = [m for model in pair.sides.models().values() for m in model.modules() if type(m) is nn.Linear]
    before = [layer for layer in layers if "forward" in vars(layer)]
    assert pair.sides.policy.get_output_embeddings() not in before
    monkeypatch.setattr("aad_plugin.pair.packed_products._can_pack", lambda weight: True)
    with pair.sides.products.use("packed"):
        pass
    assert type(vars(pair.sides.policy.get_output_embeddings())["forward"]).__name__ == "_Layer"
