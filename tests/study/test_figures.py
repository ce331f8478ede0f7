"""The study's arithmetic, by hand and by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from aad_plugin.study.arms import Arm, Costs
from aad_plugin.study.best_of_n import best_of_n_rewards, pick_chances
from aad_plugin.study.comparisons import compare_arms, order_lines
from aad_plugin.study.intervals import difference_of, mean_interval
from aad_plugin.study.tables import Table

FREE = Costs(*[1.0] * 7)


def arm(name, rewards, paper="", seeds=()):
    rewards = np.atleast_2d(np.asarray(rewards, dtype=float))
    return Arm(name, rewards.shape[1], seeds, rewards, mean_interval(rewards.mean(0)), FREE, paper=paper)


def test_chances_of_three_samples_by_hand():
    # Subsets of two of {1, 2, 3}: {1,2} picks 2, {1,3} and {2,3} pick 3.
    assert pick_chances([1, 2, 3], 2) == pytest.approx([0, 1 / 3, 2 / 3])
    assert pick_chances([3, 1, 2], 1) == pytest.approx([1 / 3] * 3)
    assert pick_chances([3, 1, 2], 3) == pytest.approx([1, 0, 0])


def test_equal_scores_share_their_chance():
    # {5,5'} and {5,1}, {5',1} pick a five, each of the two equally often.
    assert pick_chances([5, 1, 5], 2) == pytest.approx([0.5, 0, 0.5])


@pytest.mark.parametrize("num", range(1, 7))
def test_expected_rewards_are_those_of_all_subsets(num):
    rng = np.random.default_rng(num)
    picker, oracle = rng.normal(size=(3, 6)), rng.normal(size=(3, 6))
    wanted = [
        np.mean([o[max(rows, key=lambda row: p[row])] for rows in itertools.combinations(range(6), num)])
        for p, o in zip(picker, oracle, strict=True)
    ]
    assert best_of_n_rewards(picker, oracle, num) == pytest.approx(wanted)


def test_a_picker_that_is_the_oracle_never_loses_by_more_samples():
    oracle = np.random.default_rng(1).normal(size=(5, 50))
    curve = [best_of_n_rewards(oracle, oracle, num).mean() for num in range(1, 51)]
    assert np.all(np.diff(curve) > 0) and curve[-1] == pytest.approx(oracle.max(-1).mean())


def test_comparisons_are_paired_and_corrected_by_holm():
    rng = np.random.default_rng(3)
    base = rng.normal(size=40)
    sampled = np.stack([base + rng.normal(0.5, 1, size=40) for _ in range(3)])
    arms = [
        arm("greedy reference", base - 0.1, "greedy reference"), arm("greedy policy", base, "greedy policy"),
        arm("best_of_2", sampled, "best_of_2", (1, 2, 3)), arm("EFT, scale 1.5", base + 0.2, "EFT"),
        arm("AAD, alpha 0.1", base[:20] + 0.4, "AAD"),
    ]  # fmt: skip
    found = compare_arms(arms)
    assert [(one.row, one.against) for one in found] == [
        ("greedy reference", "greedy policy"), ("best_of_2", "greedy policy"), ("EFT, scale 1.5", "greedy policy"),
        ("AAD, alpha 0.1", "greedy policy"), ("greedy reference", "best_of_2"), ("EFT, scale 1.5", "best_of_2"),
        ("AAD, alpha 0.1", "best_of_2"), ("AAD, alpha 0.1", "EFT, scale 1.5"),
    ]  # fmt: skip
    assert [one.n for one in found] == [40, 40, 40, 20, 40, 40, 20, 20]
    assert found[1].difference.value == pytest.approx((sampled.mean(0) - base).mean())
    assert found[1].win_rate.value == pytest.approx((sampled > base).mean())
    assert found[3].win_rate.value == 1 and found[3].difference.value == pytest.approx(0.4)
    assert [one.p_holm for one in found] == pytest.approx(multipletests([one.p for one in found], method="holm")[1])


def test_the_order_is_held_against_the_papers():
    rng = np.random.default_rng(0)
    base = rng.normal(size=60)
    arms = [
        arm("greedy reference", base, "greedy reference"), arm("greedy policy", base + 0.3, "greedy policy"),
        arm("best_of_2", base - 1, "best_of_2"), arm("EFT, scale 1.5", base + rng.normal(-1, 9, size=60), "EFT"),
        arm("AAD, wrong reference", base + 9),
    ]  # fmt: skip
    first, *lines = order_lines(arms)
    assert first.startswith("Order by mean oracle reward: ") and "wrong" not in first
    assert first.endswith("The paper's: greedy reference < greedy policy < best_of_2 < EFT < AAD.")
    # All prompts differ by the same, which is no reason for an interval without width.
    assert lines[0].startswith("greedy policy − greedy reference: +0.300 [+0.0") and lines[0].endswith(
        "as in the paper."
    )
    assert lines[1].startswith("best_of_2 − greedy policy: -1.300 [-1.5") and lines[1].endswith("the other way round.")
    assert lines[2].endswith("not told apart.") and len(lines) == 3


def test_intervals_of_few_prompts_are_finite():
    # Was: a bootstrap-t interval of four prompts reached 1e200.
    values = [0.0, 0.0, -0.29, 0.0]
    found = mean_interval(values)
    assert -2 * 0.29 <= found.low <= found.value <= found.high <= 0.29
    assert np.isnan(mean_interval([0.3] * 20).low)  # equal rewards tell nothing of their spread
    one = mean_interval([2.0])
    assert one.value == 2 and np.isnan(one.low) and np.isnan(one.high)
    assert np.isnan(mean_interval([]).value) and np.isnan(mean_interval([1.0, np.nan]).value)


def test_intervals_cover_the_mean_of_skewed_rewards():
    rng = np.random.default_rng(5)
    hits = [found.low <= 1 <= found.high for found in (mean_interval(rng.exponential(size=60)) for _ in range(60))]
    assert np.mean(hits) > 0.85  # nominal 0.95; a binomial share of 60 has a standard error of 0.03


def test_p_values_are_two_sided():
    rng = np.random.default_rng(8)
    ours, theirs = rng.normal(0.8, 1, size=50), np.zeros(50)
    (up, p_up), (down, p_down) = difference_of(ours, theirs), difference_of(theirs, ours)
    assert p_up == pytest.approx(p_down, abs=1e-3) and p_up < 0.01
    assert up.low == pytest.approx(-down.high) and up.low > 0
    assert difference_of(np.ones(5), np.ones(5))[1] == 1


def test_latex_is_booktabs_and_escaped_and_csv_leaves_nan_empty():
    table = Table(
        "t", "Title", ("row", "p"), [("best_of_2 & 5 %", "< 0.001")], [{"row": "a", "p": float("nan")}], ("a note",)
    )
    assert table.latex().splitlines()[1:4] == [r"\toprule", r" row             & p       \\", r"\midrule"]
    assert r"best\_of\_2 \& 5 \%" in table.latex()
    assert table.csv() == "row,p\na,\n"
    assert table.markdown().startswith("## Title\n\n| row ") and table.markdown().endswith("* a note\n")
