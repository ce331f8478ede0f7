"""Which pairs of adapters can share their base inside vLLM; no engine is started."""

from __future__ import annotations

import dataclasses
import json

import pytest

from aad_plugin.sources.merging import can_share_base
from aad_plugin.sources.parts import PairSource
from tests.engine.pairs import lora_pair


@pytest.fixture
def source(tmp_path):
    pair = lora_pair(tmp_path, "llama", ("adapter", "reference_adapter"))
    return PairSource(base=str(pair.model), **pair.rest)


def test_plain_adapters_share_their_base(source):
    assert can_share_base(source)
    assert can_share_base(dataclasses.replace(source, reference_adapter=None))
    assert not can_share_base(PairSource(policy=source.base, reference=source.base))


@pytest.mark.parametrize(
    "changes",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "lora_only"}, {"init_lora_weights": "pissa"}],
    ids=lambda c: next(iter(c)),
)
def test_what_is_not_plain_lora_is_merged(source, tmp_path, changes):
    file = tmp_path / "reference_adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    assert not can_share_base(source)
    assert can_share_base(dataclasses.replace(source, reference_adapter=None))


def test_another_architecture_or_an_adapter_elsewhere_is_merged(source, tmp_path):
    assert not can_share_base(dataclasses.replace(source, adapter="someone/on-the-hub"))
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "olmo2"}))
    assert not can_share_base(source)
