"""Leagues whose scores have no maximum, fall apart or depend on style; ranks; sequential Elo."""

from __future__ import annotations

import numpy as np
import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.judges.leagues.battles import Battle
from aad_plugin.judges.leagues.elo import elo_ratings
from aad_plugin.judges.leagues.style import Style, chosen_features, differences, style_of
from aad_plugin.judges.leagues.table import league_of
from tests.judges.leagues import grid

WON, TIED, LOST = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def _met(a, b, *shares):
    return [Battle(str(number), a, b, one) for number, one in enumerate(shares)]


def test_a_system_that_never_loses_is_bounded_and_said():
    equals = [WON, LOST] * 10
    battles = _met("best", "x", *[WON] * 20) + _met("best", "y", *[WON] * 20) + _met("x", "y", *equals)
    league = league_of(battles, draws=200)
    best = league.standings[0]
    assert best.system == "best" and best.high == float("inf") and best.note in league.notes[0]
    assert "never loses" in best.note and league.zero == "the mean of x, y"
    # Clopper-Pearson's lower bound of 40 wins out of 40 against equals is 0.025 ** (1 / 40) = 0.912.
    assert 1 / (1 + np.exp(-best.low)) == pytest.approx(0.025 ** (1 / 40), abs=1e-6)
    assert (best.rank_low, best.rank_high, best.tied_with) == (1, 1, ())
    assert np.isfinite([one.high for one in league.standings[1:]]).all()
    assert (league.standings[1].rank_low, league.standings[1].rank_high) == (2, 3)


def test_one_that_never_wins_is_bounded_from_above():
    battles = _met("x", "last", *[WON] * 20) + _met("x", "y", *[WON, LOST] * 10)
    last = league_of(battles, draws=200).standings[-1]
    assert last.system == "last" and last.low == -float("inf") and "never wins" in last.note
    assert 1 / (1 + np.exp(last.high)) == pytest.approx(0.025 ** (1 / 20), abs=1e-6)


def test_a_few_losses_leave_an_open_end_where_many_draws_have_none():
    battles = _met("x", "y", *[WON] * 30, LOST)
    assert league_of(battles, draws=300).standings[0].high == float("inf")
    battles = _met("x", "y", *[WON] * 30, *[LOST] * 12)
    assert league_of(battles, draws=300).standings[0].high < 3


def test_a_clean_sweep_tells_two_systems_apart():
    """Was: without an anchor both were tied, each "at least" and "at most" something relative to itself."""
    first, second = league_of(_met("x", "y", *[WON] * 20), draws=100).standings
    assert (first.system, first.low, first.high, first.rank_high) == ("x", 0, 0, 1) and first.tied_with == ()
    assert (second.low, second.rank_low) == (-float("inf"), 2)
    assert 1 / (1 + np.exp(second.high)) == pytest.approx(0.025 ** (1 / 20), abs=1e-6)
    three = league_of(_met("x", "y", *[WON] * 3), draws=100).standings  # 3 of 3 says little
    assert [(one.rank_low, one.rank_high) for one in three] == [(1, 2), (1, 2)]


def test_a_chain_of_clean_sweeps_is_bounded_from_its_zero_and_ranked():
    battles = _met("a", "b", *[WON] * 500) + _met("b", "c", *[WON] * 500) + _met("a", "c", *[WON] * 500)
    a, b, c = league_of(battles, draws=100).standings
    assert [one.system for one in (a, b, c)] == ["a", "b", "c"] and (a.low, a.high) == (0, 0)
    for one in (b, c):  # by their own battles with a
        assert one.low == -float("inf") and 1 / (1 + np.exp(one.high)) == pytest.approx(0.025 ** (1 / 500), abs=1e-6)
    assert [(one.rank_low, one.rank_high) for one in (a, b, c)] == [(1, 1), (2, 2), (3, 3)]


def test_systems_that_only_lost_to_a_third_are_not_compared():
    """Was: the one that lost more often was told apart, by the half verdict that each is given."""
    base, a, b = league_of(
        _met("base", "a", *[WON] * 50) + _met("base", "b", *[WON] * 100), anchor="base", draws=100
    ).standings
    assert [one.system for one in (base, a, b)] == ["base", "a", "b"] and base.rank_high == 1
    assert [(one.rank_low, one.rank_high, one.tied_with) for one in (a, b)] == [(2, 3, ("b",)), (2, 3, ("a",))]
    battles = _met("z", "a", *[WON] * 10) + _met("z", "y", *[WON] * 50)
    y = next(one for one in league_of(battles, anchor="a", draws=100).standings if one.system == "y")
    assert (y.low, y.high) == (-float("inf"), float("inf")) and "no chain of wins compares it" in y.note


@pytest.mark.parametrize(
    ("lengths", "won", "message"),
    [
        ([(20, 10), (10, 20)] * 15, [True, False] * 15, "separates wins from losses"),
        ([(20, 10)] * 30, [True, False, True] * 10, "cannot be told from the systems"),
    ],
    ids=["separated", "always twice as long"],
)
def test_a_style_without_an_estimate_is_refused(lengths, won, message):
    battles = [
        Battle(str(at), "a", "b", WON if is_won else LOST, style_a=Style(one), style_b=Style(two))
        for at, ((one, two), is_won) in enumerate(zip(lengths, won, strict=True))
    ]
    with pytest.raises(ConfigError, match=message):
        league_of(battles, style=("length",), draws=100)


def test_systems_that_nothing_connects_are_refused():
    battles = _met("a", "b", WON, LOST) + _met("c", "d", WON, LOST)
    with pytest.raises(
        ConfigError, match=r"no chain of battles connects \{a, b\} and \{c, d\}: .* judge a pair across"
    ):
        league_of(battles)


@pytest.mark.parametrize(
    ("battles", "options", "message"),
    [
        ([], {}, "a league needs battles, got none with a verdict"),
        (_met("a", "b", WON, LOST), {"anchor": "aa"}, "the anchor 'aa' is none of the systems"),
        (_met("a", "b", WON, LOST), {"style": ("length",)}, "style control needs the style of every answer"),
        ([Battle("1", "a", "b", WON), Battle("1", "a", "b", LOST)], {}, "intervals need battles on at least two questions"),
    ],
    ids=["none", "anchor", "style", "one question"],
)  # fmt: skip
def test_mistakes_are_one_line(battles, options, message):
    with pytest.raises(ConfigError, match=message):
        league_of(battles, **options)


def test_against_anchors_and_round_robin_agree_on_what_both_know():
    """Davidson's scores of a chain are sums of its links."""
    first, second = [WON] * 12 + [TIED] * 4 + [LOST] * 4, [WON] * 10 + [TIED] * 4 + [LOST] * 6
    league = league_of(_met("x", "anchor", *first) + _met("anchor", "y", *second), anchor="anchor", draws=100)
    scores = {one.system: one.score for one in league.standings}
    assert scores["x"] > scores["anchor"] == 0 > scores["y"]


def test_ties_in_rank_are_said():
    dice = np.random.default_rng(0)
    battles = grid.planted_league(dice, np.array([1.5, 0.0, 0.0]), 150, tie=-1.0)
    league = league_of(battles, draws=300)
    top, *others = league.standings
    assert top.system == "system 0" and (top.rank_low, top.rank_high, top.tied_with) == (1, 1, ())
    assert {others[0].tied_with, others[1].tied_with} == {("system 1",), ("system 2",)}
    assert [(one.rank_low, one.rank_high) for one in others] == [(2, 3), (2, 3)]


def test_style_counts_are_arena_hards():
    text = "# Head\n## Two\n1. one\n- two\n* three\n**bold** and __also__\n```\n# no header\n- no item\n```\n"
    assert style_of(text, tokens=20) == Style(20, headers=2, lists=3, bold=2)
    assert style_of("x" * 40).length == 10
    theirs = {"token_len": 7, "header_count": {"h1": 1, "h2": 2}, "list_count": {"ordered": 1}, "bold_count": {"**": 0}}
    assert Style.of_json(theirs) == Style(7, 3, 1, 0)
    # length: (30 - 10) / 40; headers: d = 4/31 and 1/11, (d1 - d2) / (d1 + d2 + 1)
    told = differences(np.array([[30.0, 4, 0, 0]]), np.array([[10.0, 1, 0, 0]]))[0]
    assert told == pytest.approx([0.5, (4 / 31 - 1 / 11) / (4 / 31 + 1 / 11 + 1), 0, 0])
    assert chosen_features("markdown") == ("headers", "lists", "bold") and chosen_features("bold,length") == (
        "length",
        "bold",
    )
    with pytest.raises(ConfigError, match="style control takes all, markdown, style, length"):
        chosen_features("lenght")


def test_style_control_finds_a_planted_effect_and_takes_it_out():
    """A sample of the simulation in `grid`; all of it: docs/leagues.md."""
    battles, _ = grid.styled_league(np.random.default_rng(1), np.array([0.8, 0.0, 0.0, 0.0]), 150)
    plain, controlled = league_of(battles, draws=100), league_of(battles, style=("length",), draws=100)
    (effect,) = controlled.effects
    assert effect.low <= 0.8 <= effect.high and effect.low > 0
    # Longer answers come from the weaker systems here, so that at equal length the field is further apart.
    spread = [
        max(one.score for one in found.standings) - min(one.score for one in found.standings)
        for found in (plain, controlled)
    ]
    assert spread[1] > spread[0] and "at equal length" in controlled.model


def test_a_sample_of_the_simulated_leagues_is_covered():
    held, ranked = grid.scores_covered(12, 60, seed=4, draws=200)
    assert held >= 0.85 and ranked >= 0.9  # 96 intervals; the whole: docs/leagues.md


@pytest.mark.slow
@pytest.mark.grid
def test_a_thousand_simulated_leagues_are_covered():
    held, ranked = grid.scores_covered(1000, 100, seed=1)
    assert 0.93 <= held <= 0.97 and ranked >= 0.94


@pytest.mark.slow
@pytest.mark.grid
def test_two_hundred_simulated_styles_are_covered():
    effects = np.array([0.5, 0.3, -0.3, 0.2])
    held, found = grid.style_covered(200, effects, seed=2)
    assert (held >= 0.93).all() and found[0] >= 0.9
    held, found = grid.style_covered(200, np.zeros(4), seed=2)
    assert (found <= 0.07).all()


def test_sequential_elo_of_one_battle_by_hand():
    # From 1000 each a win moves K · (1 - 1/2) = 2 points.
    (first, second) = elo_ratings(_met("x", "y", WON), draws=5)
    assert (first.system, first.value, second.value) == ("x", 1002.0, 998.0)


def test_sequential_elo_ranks_as_planted():
    battles = grid.planted_league(np.random.default_rng(2), np.array([1.0, 0.0, -1.0]), 100, tie=-1.0)
    ratings = elo_ratings(battles, draws=50)
    assert [one.system for one in ratings] == ["system 0", "system 1", "system 2"]
    assert ratings[0].low > ratings[1].high


@pytest.mark.parametrize("shares", [(0.0, 1.0, 0.0), (0.5, 0.0, 0.5), (0.8, 0.0, 0.2)], ids=["ties", "torn", "soft"])
def test_verdicts_that_never_vary_give_no_bounds(shares):
    league = league_of(_met("a", "b", *[shares] * 5), draws=200)
    for one in league.standings:
        assert (one.low, one.high, one.rank_low, one.rank_high) == (-float("inf"), float("inf"), 1, 2)
    assert "a, b: every draw of questions gives the same score" in league.notes[0]
    anchored = {one.system: one for one in league_of(_met("a", "b", *[shares] * 5), anchor="b", draws=200).standings}
    assert (anchored["b"].low, anchored["b"].high) == (0, 0) and anchored["a"].high == float("inf")
