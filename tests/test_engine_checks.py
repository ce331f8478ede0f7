"""What a pair on vLLM refuses before anything is loaded; needs no vLLM."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest

from aad_plugin.engine.checks import check_drafts, check_window
from aad_plugin.errors import ConfigError


@pytest.mark.parametrize(
    "given",
    [
        {"method": "ngram", "num_speculative_tokens": 3},
        {"model": "a/draft", "num_speculative_tokens": 3},
        {"method": "draft_model", "model": "a/draft", "rejection_sample_method": "block"},
        {"method": None, "model": None},
    ],
)
def test_drafts_of_token_ids_with_lossless_acceptance_pass(given):
    check_drafts(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "eagle"}, "must be one of ngram, draft_model, suffix for a pair, got 'eagle'"),
        (
            {"method": "ngram", "rejection_sample_method": "fly"},
            "rejection_sample_method must be one of standard, block for a pair, got 'fly': it accepts drafts that the pair "
            "would not choose",
        ),
        ({"method": "ngram", "rejection_sample_method": "synthetic"}, "got 'synthetic'"),
    ],
)
def test_other_drafts_are_refused_in_one_line(given, message):
    with pytest.raises(ConfigError, match=message):
        check_drafts(given)


def test_suffix_drafts_name_their_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install arctic-inference==0\.1\.1"):
        check_drafts({"method": "suffix"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    check_drafts({"method": "suffix"})


@pytest.mark.parametrize(
    ("config", "window", "refused"),
    [
        ({"sliding_window": 4096}, 4096, False),
        ({"sliding_window": None}, None, False),
        ({"sliding_window": None}, 4096, True),
        ({"sliding_window": 4096}, None, True),
        ({"sliding_window": 4096, "use_sliding_window": False}, None, False),
        ({"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"]}, None, False),
        ({"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"]}, 4096, True),
        ({"sliding_window": 4096, "layer_types": ["full_attention"]}, None, False),
    ],
)
def test_one_engine_has_one_window(config, window, refused):
    """vLLM gives the policy's to every layer that brings none, without a word."""
    text = SimpleNamespace(**config)
    role = SimpleNamespace(get_text_config=lambda: text)
    if not refused:
        check_window("reference", role, window, 100_000)
        return
    with pytest.raises(ConfigError, match=r"attends to .* pass max_model_len="):
        check_window("reference", role, window, 100_000)
    check_window("reference", role, window, 512)
