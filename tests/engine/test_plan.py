"""Memory of a served pair, worked out by hand."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

from aad_plugin.engine.plan import Part, part, plan


def test_parameters_and_cache_by_hand():
    config = LlamaConfig(
        vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, tie_word_embeddings=True,
    )  # fmt: skip
    found = part(config, "bfloat16")
    # Per layer: q and o 16·16, k and v 16·8 each, three times 16·32 in the MLP, two norms of 16 = 2336.
    # Embeddings 100·16, tied with the head; two layers; a last norm of 16.
    assert found.parameters == 1600 + 2 * (2 * 256 + 2 * 128 + 3 * 512 + 2 * 16) + 16
    assert found.kv_bytes == 2 * 2 * 2 * 4 * 2


def test_what_fits():
    one = Part(70_000_000_000, 140_000_000_000, 320 * 1024)  # a 70B model in bf16
    pair = plan(one, one, devices=8, device_gib=80, utilisation=0.9, context=8192)
    assert pair.weight_gib == pytest.approx(280e9 / 2**30)
    # 8 · 80 GiB · 0.9 = 576 GiB, less 260.8 GiB of weights; 640 KiB of cache per token.
    assert pair.tokens == int((576 * 2**30 - 280e9) / (640 * 1024))
    shared = plan(one, one, devices=4, device_gib=80, utilisation=0.9, shares_base=True)
    # 4 · 80 GiB · 0.9 = 288 GiB, less 130.4 GiB of weights, held once; the cache of both sides.
    assert shared.tokens == int((288 * 2**30 - 140e9) / (640 * 1024))
    assert any("one base for both, 70.00 billion" in line for line in shared.lines())
    assert plan(one, one, device_gib=80).tokens == 0
    assert any("do not fit" in line for line in plan(one, one, device_gib=80).lines())
