"""Commands end with what a reader wants to know: a sentence, a verdict, why something parts or is missing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from aad_plugin.cli.pairs import _verdict
from aad_plugin.cli.study import _counts
from aad_plugin.engine.middleware import check_request
from aad_plugin.engine.self_test import Mismatch, compare_tokens
from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.results import print_summary
from aad_plugin.judges.statistics.summary import summarize


def test_a_judge_whose_orders_all_contradict_has_no_win_rate(capsys):
    """It read "50.00 %, 95 % [50.00 %, 50.00 %]", which looks like a sure tie."""
    both = [Verdict(str(i), f"p{i}", "first", p=0.5, orders=(1.0, 0.0)) for i in range(12)]
    print_summary(summarize(both))
    shown = " ".join(capsys.readouterr().out.split())
    assert "none: every order contradicts the other" in shown and "[50" not in shown
    print_summary(summarize([*both, Verdict("x", "px", "first", p=1.0, orders=(1.0, 1.0))]))
    assert "95 % [" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("num", "given", "counts"),
    [(200, (None, None), (50, 40)), (1000, (None, None), (50, 40)), (10, (None, None), (3, 2)), (10, (7, 0), (7, 0))],
)
def test_a_small_study_lowers_the_other_counts(tmp_path, num, given, counts):
    assert _counts(tmp_path, num, *given) == counts


def test_a_study_says_its_conclusion_in_one_sentence():
    from aad_plugin.study.comparisons import AAD, GREEDY, conclusion

    def arm(paper, rewards):
        mean = SimpleNamespace(value=float(np.mean(rewards)))
        return SimpleNamespace(
            name=paper, paper=paper, rewards=np.array(rewards)[None, :], prompts=len(rewards), seeds=(), reward=mean
        )

    rng = np.random.default_rng(0)
    base = rng.normal(size=60)
    for shift, said in ((1.0, "is better than"), (-1.0, "is worse than"), (0.0, "cannot be told apart from")):
        told = conclusion([arm(GREEDY, base), arm(AAD, base + shift + 0.1 * rng.choice([-1, 1], size=60))])
        assert f"AAD {said} greedy decoding of the policy on these 60 prompts" in told
    # By the test, which cuts the interval at 0: was "cannot be told apart" beside p < 0.001 in the table.
    pair = [arm(GREEDY, base), arm(AAD, base + rng.normal(0.4, 0.8, size=60))]
    assert "AAD is better than" in conclusion(pair) and "[+0.000, " in conclusion(pair) and "p " in conclusion(pair)
    assert "not finished" in conclusion([])


def test_a_self_test_says_passed_and_why_answers_part():
    def row(margin):
        return {"prompt": "p", "ids": [1], "tokens": [5, 6, 7], "margins": [1.0, margin, 1.0]}

    same = compare_tokens([row(1.0)], [[5, 6, 7]], "float32")
    assert str(same) == "self-test passed: 3 of 3 tokens as with transformers"
    near = compare_tokens([row(0.1), row(0.02)], [[5, 9, 9], [5, 9]], "bfloat16")
    assert str(near).startswith("self-test passed: 2 of 6 tokens as with transformers; where an answer parts")
    assert "largest such margin 0.1 nats; up to 0.25 is rounding" in str(near)
    with pytest.raises(Mismatch):
        compare_tokens([row(1.0)], [[5, 9, 7]], "bfloat16")


def test_a_chat_clients_temperature_is_refused_or_ignored_as_the_server_was_told():
    body = {"model": "aad", "messages": [], "temperature": 0.7}
    with pytest.raises(ConfigError, match="or start the server with --ignore-temperature"):
        check_request(body)
    assert check_request(body, ignore_temperature=True)["temperature"] == 0
    greedy = {**body, "model": "aad-greedy"}  # a greedy request with a temperature is the policy's sample
    assert check_request(greedy, ignore_temperature=True)["temperature"] == 0.7


def test_a_server_names_the_strategies_it_serves():
    with pytest.raises(ConfigError) as told:
        check_request({"model": "aad", "messages": [], "vllm_xargs": {"aad_strategy": "gredy"}})
    assert "must be one of aad, greedy, reference, eft, got 'gredy' (did you mean 'greedy'?)" in str(told.value)


@pytest.mark.parametrize(
    ("departures", "near_chance", "said"),
    [
        (0.0, None, "verdict: of no use"),
        (0.2, None, "verdict: the pair works, AAD departs from greedy at 20% of steps; whether the reference"),
        (0.2, True, "verdict: doubtful"),
        (
            0.2,
            False,
            "verdict: fit for AAD, which departs from greedy at 20% of steps, and the implicit reward orders 80%",
        ),
        (0.2, "reversed", "verdict: the wrong way round, the implicit reward prefers the rejected answers; swap"),
    ],
)
def test_a_pair_check_ends_with_a_verdict(departures, near_chance, said):
    found = (
        None
        if near_chance is None
        else SimpleNamespace(near_chance=near_chance is True, reversed=near_chance == "reversed", accuracy=0.8)
    )
    assert _verdict(SimpleNamespace(departures=departures), found).startswith(said)
