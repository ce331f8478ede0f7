"""One test per rule; a pair counts for the first that leaves it out."""

from __future__ import annotations

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.synthesis.filters import Candidate, Limits, sift

PROMPT = [{"role": "user", "content": "?"}]


def candidate(chosen="good", rejected="bad", tokens=(5, 5), truncated=(False, False), scores=None):
    return Candidate(PROMPT, chosen, rejected, tokens, truncated, scores)


@pytest.mark.parametrize(
    ("made", "limits", "reason"),
    [
        (candidate(), Limits(), None),
        (candidate("same ", "same"), Limits(), "identical"),
        (candidate(tokens=(5, 2)), Limits(min_tokens=3), "too_short"),
        (candidate(rejected=""), Limits(), "too_short"),
        (candidate(truncated=(True, False)), Limits(), "too_long"),
        (candidate(truncated=(True, False)), Limits(keep_truncated=True), None),
        (candidate(truncated=(None, None)), Limits(), None),
        (candidate(scores=(1.0, 0.5)), Limits(min_margin=0.5), "margin"),
        (candidate(scores=(1.1, 0.5)), Limits(min_margin=0.5), None),
        (candidate(scores=(float("nan"), 0.5)), Limits(min_margin=-9.0), "margin"),
        (candidate("same", "same", tokens=(1, 1)), Limits(min_tokens=3), "identical"),
    ],
)
def test_rules(made, limits, reason):
    assert limits.reason(made) == reason


def test_what_is_left_out_is_counted():
    kept, dropped = sift([candidate(), candidate("x", "x"), candidate(truncated=(False, True))], Limits())
    assert kept == [candidate()] and dropped == {"identical": 1, "too_short": 0, "too_long": 1, "margin": 0}


def test_a_limit_out_of_range():
    with pytest.raises(ConfigError, match="--min-tokens must be at least 1, got 0"):
        Limits(min_tokens=0)
