"""Names, ranges and precedence of decoding settings."""

from __future__ import annotations

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.settings import DecodingSettings


def test_defaults_are_the_papers():
    s = DecodingSettings()
    assert (s.strategy, s.alpha, s.n, s.picker, s.temperature, s.top_p) == ("aad", 0.1, 2, "implicit", 1.0, 0.95)


def test_best_of_n_shorthand():
    s = DecodingSettings(strategy="best_of_16")
    assert (s.strategy, s.n) == ("best_of_n", 16)


def test_text_from_a_command_line_becomes_numbers():
    s = DecodingSettings().override(alpha="0.2", n="3", strategy="best_of_n")
    assert (s.alpha, s.n) == (0.2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0}, r"alpha must be a number in \(0, 1\], got 0"),
        ({"alpha": 1.5}, r"got 1\.5"),
        ({"alpha": "nan"}, "got 'nan'"),
        ({"n": 0}, "n must be a whole number of at least 1, got 0"),
        ({"n": 1.5}, "n must be a whole number"),
        ({"strategy": "best_of_0"}, "n must be a whole number of at least 1, got 0"),
        ({"strategy": "gready"}, "did you mean 'greedy'"),
        ({"picker": "length"}, "picker must be 'implicit' or 'reward:<model>'"),
        ({"eft_scale": -1}, "eft_scale must be a number at least 0"),
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"top_p": 0}, "top_p must be a number in"),
        ({"alhpa": 0.1}, "unknown decoding setting 'alhpa' .did you mean 'alpha'"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
    ],
)
def test_bad_values(changes, message):
    with pytest.raises(ConfigError, match=message):
        DecodingSettings().override(**changes)


def test_none_means_not_given_and_order_of_overrides_is_precedence():
    folder = DecodingSettings().override(alpha=0.2, n=4)
    model_args = folder.override(alpha=0.3, n=None)
    assert (model_args.alpha, model_args.n) == (0.3, 4)


def test_eft_scale_one_warns(caplog):
    DecodingSettings(strategy="eft", eft_scale=1)
    assert "plain greedy" in caplog.text


def test_fingerprint_separates_settings_and_context():
    s = DecodingSettings()
    marks = {s.fingerprint(), s.override(alpha=0.2).fingerprint(), s.fingerprint(model="a"), s.fingerprint(model="b")}
    assert len(marks) == 4
    assert s.fingerprint() == DecodingSettings().fingerprint()


def test_relevant_settings_leave_out_what_cannot_matter():
    assert DecodingSettings(strategy="greedy", alpha=0.3).relevant() == {"strategy": "greedy"}
    assert DecodingSettings(alpha=0.3).relevant() == {"strategy": "aad", "alpha": 0.3}


@pytest.mark.parametrize(("given", "found"), [("2", 2.0), ("1+0.5", (1.0, 0.5)), ([1, 2], (1.0, 2.0)), ("1e4", 1e4),
                                               ("1e+4", 1e4), ([3], 3.0), (0, 0.0)])  # fmt: skip
def test_weights_of_guides(given, found):
    assert DecodingSettings(strategy="guided", guide_scale=given).guide_scale == found
