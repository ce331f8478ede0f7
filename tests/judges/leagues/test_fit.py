"""Bradley-Terry with Davidson's ties, held to other people's software on the same counts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from aad_plugin.judges.leagues.battles import Battle, read_battles
from aad_plugin.judges.leagues.fit import fit_coefficients
from aad_plugin.judges.leagues.table import league_of
from tests.judges.leagues.grid import outcomes, planted_league
from tests.public_data import DATA, needs_public_data


def _poisson_fit(battles) -> dict[str, float]:
    """Scores by statsmodels' Poisson regression: Davidson's model as a log-linear one (Fienberg 1979)."""
    import statsmodels.api as sm

    pairs = sorted({(b.a, b.b) for b in battles})
    systems = sorted({name for pair in pairs for name in pair})
    counts = {pair: np.zeros(3) for pair in pairs}
    for battle in battles:
        counts[battle.a, battle.b] += battle.shares
    has_ties = any(count[1] for count in counts.values())
    rows, seen = [], []
    for number, pair in enumerate(pairs):
        for outcome, sign in ((0, 0.5), (1, 0.0), (2, -0.5)):
            row = np.zeros(len(pairs) + len(systems))
            row[number] = 1
            for name, side in zip(pair, (sign, -sign), strict=True):
                if name != systems[0]:
                    row[len(pairs) + systems.index(name) - 1] = side
            row[-1] = outcome == 1
            if outcome != 1 or has_ties:
                rows.append(row)
                seen.append(counts[pair][outcome])
    design = np.array(rows)[:, : None if has_ties else -1]
    fit = sm.GLM(np.array(seen), design, family=sm.families.Poisson()).fit(tol=1e-14, maxiter=200)
    found = [0.0, *fit.params[len(pairs) : len(pairs) + len(systems) - 1]]
    return dict(zip(systems, np.array(found) - np.mean(found), strict=True))


@pytest.mark.parametrize("tie", [-0.5, -np.inf], ids=["ties", "no ties"])
def test_round_robin_of_eight_agrees_with_an_independent_fit(tie):
    battles = planted_league(np.random.default_rng(3), np.linspace(1.5, -1.5, 8), 60, tie)
    league = league_of(battles, draws=50)
    theirs = _poisson_fit(battles)
    assert {one.system: one.score for one in league.standings} == pytest.approx(theirs, abs=1e-6)
    assert [one.system for one in league.standings] == sorted(theirs, key=lambda name: -theirs[name])
    sizes = {(b.a, b.b): sum((c.a, c.b) == (b.a, b.b) for c in battles) for b in battles}
    assert len(set(sizes.values())) > 10, "the pairs meet unequally often"


def test_scipy_finds_the_same_maximum():
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    dice = np.random.default_rng(0)
    design = dice.normal(size=(200, 4))
    shares = outcomes(dice, design @ [1.0, -0.5, 0.2, 0.0], tie=-0.3)

    def cost(x):
        u = design @ x[:4]
        logits = np.column_stack([u / 2, np.full(200, x[4]), -u / 2])
        return -(shares * (logits - logsumexp(logits, axis=1, keepdims=True))).sum()

    theirs = minimize(cost, np.zeros(5), method="BFGS", options={"gtol": 1e-8}).x
    assert fit_coefficients(design, shares[None])[0] == pytest.approx(theirs, abs=2e-6)


def test_many_resamples_at_once_are_each_fitted_alone():
    dice = np.random.default_rng(1)
    design = dice.normal(size=(60, 3))
    shares = outcomes(dice, design @ [1.0, -0.5, 0.2], tie=-0.3)[None] * dice.poisson(1, (20, 60))[:, :, None]
    together = fit_coefficients(design, shares)
    alone = [fit_coefficients(design, one[None])[0] for one in shares]
    assert together == pytest.approx(np.array(alone), abs=1e-8)


def test_two_systems_by_hand():
    # 6 won, 3 tied, 1 lost: P(win) / P(loss) = 6 = exp(u); P(tie)² / (P(win) P(loss)) = 9 / 6 = nu².
    battles = [Battle(str(at), "x", "y", shares) for at, shares in enumerate(
        [(1.0, 0.0, 0.0)] * 6 + [(0.0, 1.0, 0.0)] * 3 + [(0.0, 0.0, 1.0)])]  # fmt: skip
    league = league_of(battles, anchor="y", draws=100)
    assert league.standings[0].score == pytest.approx(math.log(6), abs=1e-7)
    nu = math.sqrt(9 / 6)
    assert league.tie_rate == pytest.approx(nu / (2 + nu), abs=1e-7)
    assert league.standings[0].win_rate == pytest.approx(0.75, abs=1e-7)  # the points of the data: 7.5 of 10
    assert league.standings[0].elo == pytest.approx(1000 + 400 * math.log10(6), abs=1e-4)


@needs_public_data
def test_arena_hards_battles_have_four_log_odds():
    battles = read_battles([DATA / "arena_hard_battles.jsonl.gz"])
    league = league_of(battles, anchor="claude-3-haiku-20240307", draws=200)
    scores = {one.system: one.score for one in league.standings}
    # A star: each system's log-odds are those of its own wins against its losses, whatever the ties are.
    won = {"gpt-4o": (478, 70), "gpt-4o-mini": (416, 101), "claude-3-opus-20240229": (384, 117)}
    won["claude-3-5-sonnet-20240620"] = (480, 59)
    assert _poisson_fit(battles) == pytest.approx(
        {k: v - np.mean(list(scores.values())) for k, v in scores.items()}, abs=1e-6
    )
    assert league.questions == 120 and league.battles == 2136
    assert league.tie_rate == pytest.approx(0.0198, abs=1e-4)
    for name, (up, down) in won.items():
        assert scores[name] == pytest.approx(math.log(up / down), abs=0.02), name


def test_the_bootstrap_draws_questions_not_battles():
    """Thirty copies of each battle on its question say no more than one."""
    battles = planted_league(np.random.default_rng(5), np.array([0.5, -0.5]), 80, tie=-1.0)
    once = league_of(battles, draws=400).standings[0]
    often = league_of(battles * 30, draws=400).standings[0]
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-6)


def test_verdicts_in_two_orders_are_won_tied_and_lost_by_order(tmp_path):
    rows = [
        {"question_id": 1, "model_a": "x", "model_b": "y", "p": 0.5, "orders": [1.0, 0.0]},
        {"question_id": 2, "model_a": "x", "model_b": "y", "p": 0.75, "orders": [1.0, 0.5]},
        {"question_id": 3, "model_a": "x", "model_b": "y", "p": 0.7, "orders": [0.8, 0.6]},
        {"question_id": 4, "model_a": "x", "model_b": "y", "p": None, "reason": "refusal"},
    ]
    path = tmp_path / "battles.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [battle.shares for battle in read_battles([path])] == [
        (0.5, 0.0, 0.5), (0.5, 0.5, 0.0), (pytest.approx(0.7), 0.0, pytest.approx(0.3)), None,
    ]  # fmt: skip
    assert read_battles([path], sides=True)[2].shares == (1.0, 0.0, 0.0)
