"""Intervals and tests for small, lopsided and tied samples: by hand, by enumeration, and a sample of the grid."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from aad_plugin.errors import ConfigError
from aad_plugin.judges.statistics.bounded_mean import mean_bounds, sum_is_positive
from aad_plugin.judges.statistics.intervals import (
    interval_of_rate,
    mean_of_unbounded,
    mean_with_interval,
    paired_difference,
    shown,
)
from aad_plugin.judges.statistics.results import read_verdicts, share_of
from aad_plugin.judges.statistics.sign_flips import chance_of_so_low
from aad_plugin.judges.statistics.summary import summarize
from tests.judges.coverage_grid import LEAST, OURS, all_cells, cell_of, report, run
from tests.public_data import DATA, needs_public_data


@pytest.mark.parametrize(("wins", "num"), [(0, 1), (1, 1), (3, 8), (20, 20), (49, 50), (81, 805)])
def test_hard_verdicts_get_clopper_and_pearsons_interval(wins, num):
    found = mean_with_interval([1.0] * wins + [0.0] * (num - wins))
    exact = stats.binomtest(wins, num).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-8)


def test_the_exact_distribution_is_what_drawing_gives():
    # Weights 2, -1 and -1: P(2 X > Y + Z) = 1 - P(Y + Z > 2 X); by parts 2^2 / 3^2.
    assert sum_is_positive(np.array([[2.0, -1.0, -1.0]]))[0] == pytest.approx(4 / 9, abs=1e-12)
    values = np.array([[0.2, 0.9, 0.95, 0.4]])
    drawn = np.random.default_rng(0).exponential(size=(400_000, 5))
    drawn /= drawn.sum(axis=1, keepdims=True)
    low, high = mean_bounds(values, np.ones_like(values), 0.025)
    assert high[0] == pytest.approx(np.quantile(drawn[:, :4] @ values[0] + drawn[:, 4], 0.975), abs=2e-3)
    assert low[0] == pytest.approx(np.quantile(drawn[:, :4] @ values[0], 0.025), abs=2e-3)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0.9999] * 19 + [0.9998], 0.8315, 0.9999),  # was [0.99987, 0.9999]
        ([0.5] * 20, 0.4158, 0.5842),  # was the point 0.5
        ([0.3], 0.0075, 0.9825),
        ([1 - 1e-12] * 8, 0.6306, 1.0),
    ],
)
def test_soft_and_tied_verdicts_have_width(values, low, high):
    found = mean_with_interval(values)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    assert found.low <= found.value <= found.high


def test_prompts_are_counted_not_verdicts():
    one = mean_with_interval([1.0] * 8)
    four = mean_with_interval([1.0] * 32, [i // 4 for i in range(32)])
    assert four.n == 8 and four.low == pytest.approx(one.low)
    # A prompt with most of the verdicts leaves little that is independent.
    lopsided = mean_with_interval([1.0] * 100 + [1.0, 0.0] * 4, [0] * 100 + list(range(1, 9)))
    assert lopsided.n == 9 and lopsided.high - lopsided.low > 0.4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_with_interval([0.5, 1.2]), r"verdicts must be within \[0, 1\], got 1.2 at position 1 \(1 such\)"),
        (lambda: mean_with_interval([math.nan]), r"got nan at position 0"),
        (lambda: mean_with_interval([0.5], ["a", "b"]), r"got \(1,\) and 2 clusters"),
        (lambda: paired_difference([0.2, math.inf]), r"differences must be finite, got inf at position 1"),
        (lambda: paired_difference([1.5], limit=1), r"differences must be within \[-1, 1\], got 1.5"),
        (lambda: paired_difference([0.5], limit=0), r"the limit of differences must be above 0"),
    ],
)
def test_values_that_cannot_be_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_two_verdicts_of_160_are_no_regression():
    found = paired_difference([-0.5] * 2 + [0.0] * 158)
    assert found.p_below == pytest.approx(0.25)  # was 0.017
    assert -1 <= found.low < found.value < 0 < found.high <= 1  # low was -7.9e305


def test_equal_differences_without_a_limit_have_finite_bounds():
    found = paired_difference([5.0] * 20)
    assert 3 < found.low < found.value == 5 < found.high < 6 and found.p_above == pytest.approx(0.5**20)


def test_no_change_is_no_certainty():
    found = paired_difference([0.0] * 160)
    assert (found.p_below, found.p_above) == (1, 1)
    assert found.high == -found.low == pytest.approx(1 - 0.025 ** (1 / 160), abs=1e-6)


@pytest.mark.parametrize(
    "changes", [(-1, -1, 2, -3), (0.25, -0.7, -0.7, -0.1, 0.3), (-0.5,) * 7, (-1.0, -0.5, -0.5, 1.0)]
)
def test_sign_flips_are_enumerated(changes):
    sums = [
        sum(s * abs(c) for s, c in zip(signs, changes, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(changes))
    ]
    low = sum(total <= sum(changes) + 1e-9 for total in sums) / len(sums)
    assert chance_of_so_low(np.array([*changes, 0.0]), 999, 0) == (pytest.approx(low), True)


def test_sign_flips_of_many_are_mcnemars_test_or_drawn():
    exact, is_exact = chance_of_so_low(np.array([-1.0] * 35 + [1.0] * 10), 9999, 0)
    assert is_exact and exact == pytest.approx(stats.binomtest(35, 45, alternative="greater").pvalue)
    values = np.random.default_rng(3).normal(-0.3, 1, 40)
    drawn, is_exact = chance_of_so_low(values, 9999, 0)
    assert not is_exact and drawn == pytest.approx(stats.ttest_1samp(values, 0, alternative="less").pvalue, abs=0.01)


def test_the_interval_excludes_0_just_where_the_test_rejects():
    dice = np.random.default_rng(1)
    for _ in range(60):
        values = dice.choice([-0.5, -0.5, 0, 0, 0, 0.5], 30)
        found = paired_difference(values)
        assert (found.high <= 0) == (found.p_below <= 0.025) and (found.low >= 0) == (found.p_above <= 0.025)
        assert found.low <= found.value <= found.high


def test_three_outcomes_are_covered_by_enumeration():
    """Win, tie, loss on 8 prompts: every sample with its probability, over a lattice of truths."""
    counts = np.array([(w, t, 8 - w - t) for w in range(9) for t in range(9 - w)])
    samples = np.array([[1.0] * w + [0.5] * t + [0.0] * x for w, t, x in counts])
    low, high = mean_bounds(samples, np.ones_like(samples), 0.025)
    for win, tie in itertools.product(np.linspace(0.02, 0.98, 13), repeat=2):
        if win + tie < 1:
            chances = stats.multinomial.pmf(counts, 8, [win, tie, 1 - win - tie])
            truth = win + tie / 2
            assert chances @ ((low <= truth + 1e-9) & (high >= truth - 1e-9)) >= 0.95


def test_means_without_bounds():
    found = mean_of_unbounded([0.0, 0.0, -0.29, 0.0])
    assert -0.5 < found.low < found.value < found.high < 0.2
    assert math.isnan(mean_of_unbounded([2.0]).low) and math.isnan(mean_of_unbounded([2.0] * 9).low)
    assert math.isnan(mean_of_unbounded([]).value)


def test_a_rate_and_its_error_give_an_interval_within_bounds():
    assert interval_of_rate(1.0, 0.0, 20) == pytest.approx((0.8316, 1.0), abs=1e-4)
    low, high = interval_of_rate(0.98, 0.02, 50)  # 0.98 +- 1.96 * 0.02 would end at 1.019
    assert 0.85 < low < 0.98 < high < 1
    assert all(math.isnan(bound) for bound in interval_of_rate(0.5, math.nan, 20) + interval_of_rate(0.5, 0.1, 0))


@pytest.mark.parametrize(
    ("preference", "share"),
    [
        (1, 0),
        (2, 1),
        (1.5, 0.5),
        (0, 0.5),
        (0.0, 0.5),
        (None, None),
        (-1, None),
        (math.nan, None),
        (3, None),
        ("2", None),
    ],
)
def test_a_tie_coded_0_is_a_tie(preference, share):
    assert share_of(preference) == share


@needs_public_data
def test_a_tie_coded_0_is_a_tie_in_every_table(tmp_path):
    """Was: 9.76 % in the row, beside an interval of [6.11, 9.42] without those ties."""
    import gzip
    import json

    from aad_plugin.alpaca.tables import entry_of

    rows = json.loads(gzip.decompress((DATA / "alpaca_eval_annotations_Qwen-14B-Chat.json.gz").read_bytes()))
    for row in rows[:40]:
        row["preference"] = 0
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(rows))
    entry, summary = entry_of(path), summarize(read_verdicts(path))
    assert summary.n_unjudged == 0 and entry.row.n_total == 805 and entry.row.n_draws == summary.ties
    assert entry.row.win_rate == pytest.approx(100 * summary.win_rate) and entry.low < entry.row.win_rate < entry.high


@pytest.mark.parametrize("generator", ["soft", "soft_sharp", "both_orders_bias_5", "mostly_ties", "unequal_clusters"])
def test_a_sample_of_the_grid_is_covered(generator):
    assert cell_of(generator, 20, 0.98, (OURS,))["coverage"][OURS] >= LEAST


@pytest.mark.parametrize(("num", "p"), list(itertools.product((8, 20, 50, 200), (0.5, 0.8, 0.9, 0.98))))
def test_hard_cells_are_covered_by_enumeration(num, p):
    assert cell_of("hard", num, p, (OURS,))["coverage"][OURS] >= 0.925


@needs_public_data
@pytest.mark.parametrize("model", ["Qwen-14B-Chat", "OpenHermes-2.5-Mistral-7B"])
def test_draws_from_real_verdicts_are_covered(model):
    assert cell_of(f"drawn: {model}", 20, 0.5, (OURS,))["coverage"][OURS] >= LEAST


def test_the_grid_resumes(tmp_path, monkeypatch):
    cells = [("hard", 8, 0.5), ("soft", 8, 0.5), ("hard", 50, 0.5), ("rewards: normal", 8, 0.5)]
    monkeypatch.setattr("tests.judges.coverage_grid.all_cells", lambda: iter(cells))
    monkeypatch.setattr("tests.judges.coverage_grid.SAMPLES", 50)
    path = tmp_path / "cells.jsonl"
    first = run(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]) + '{"generator": "ha')
    assert run(path) == first and len(path.read_text().splitlines()) == 4
    assert "Narrowest that covers everywhere" in report(first)


@pytest.mark.grid
def test_every_cell_is_covered_and_narrow():
    """Resumes in runs/; minutes for each prompt number."""
    from pathlib import Path

    cells = run(Path("runs/coverage_grid.jsonl"))
    print(report(cells))
    assert len(cells) == len(list(all_cells()))
    ours = [cell for cell in cells if not cell["generator"].startswith("rewards")]
    assert not [cell for cell in ours if cell["coverage"][OURS] < (0.925 if cell["generator"] == "hard" else LEAST)]
    simulated = [cell for cell in cells if ":" not in cell["generator"]]
    covering = [name for name in simulated[0]["coverage"] if all(cell["coverage"][name] >= LEAST for cell in simulated)]
    for cell in simulated:
        if cell["num"] >= 50:
            assert cell["width"][OURS] <= 1.3 * min(cell["width"][name] for name in covering), cell


def test_a_figure_as_people_read_it() -> None:
    nan = float("nan")
    assert shown(0.5, 0.25, 0.75) == "0.500 [0.250, 0.750]"
    assert shown(-0.5, -0.75, 0.25, sign="+") == "-0.500 [-0.750, +0.250]"
    assert shown(0.5, nan, nan) == shown(0.5) == "0.500"
    assert shown(nan, nan, nan) == shown(None) == "–"
