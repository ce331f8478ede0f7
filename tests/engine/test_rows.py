"""What both of vLLM's model runners share: settings per request, and counting emptied plausible sets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from aad_plugin.decoding import aad_scores
from aad_plugin.engine.requests import Held
from aad_plugin.engine.rows import Rows, constrained
from aad_plugin.settings import DecodingSettings


@pytest.fixture
def rows():
    return Rows(SimpleNamespace(default=DecodingSettings(alpha=0.3), held=Held()))


def test_counts_only_chosen_tokens_outside_the_plausible_set(rows):
    policy = torch.tensor([[5.0, 4.9, -3.0], [2.0, -9.0, 1.9], [0.0, 6.0, -1.0]])
    scores = aad_scores(policy, torch.zeros(3, 3), 0.5)
    rows.count(scores, [0, 1, 2], torch.tensor([1, 1, 0]))
    assert rows.emptied == 2
    rows.count(scores, [2, 0], torch.tensor([0, 2]), valid=torch.tensor([False, True]))
    assert rows.emptied == 3


def test_a_bad_request_is_decoded_by_the_default_and_said(rows, caplog):
    assert rows.settings({"aad_alpha": 0.5}).alpha == 0.5
    assert rows.settings({"aad_alpha": 7}) == rows.model.default
    assert "decoded by the default" in caplog.text
    assert rows.settings(None) == rows.model.default
    assert rows(4) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("structured_outputs", object()), ("min_tokens", 3), ("bad_words", ["x"]), ("logit_bias", {1: 2})],
)
def test_only_constraints_can_empty_the_plausible_set(name, value):
    plain = dict(structured_outputs=None, min_tokens=0, bad_words=[], logit_bias=None, allowed_token_ids=None)
    assert not constrained(SimpleNamespace(**plain))
    assert constrained(SimpleNamespace(**{**plain, name: value}))
    assert not constrained(None)
