"""A judge whose two orders contradict each other is said to be insane, and `aad judge` does not exit with 0."""

from __future__ import annotations

import json

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.judges import Verdict, load_judge
from aad_plugin.judges.statistics.limits import Limits, outside
from tests.judges.test_cli import aad


def verdicts(*orders):
    return [Verdict(str(i), "p", "j", p=sum(one) / 2, orders=one) for i, one in enumerate(orders)]


def test_a_judge_that_contradicts_itself_is_named():
    # 120 of 150 contradictions, as of a judge that obeys the last verdict in the text.
    told = outside(verdicts(*[(1.0, 0.0)] * 120, *[(0.0, 0.0)] * 30))
    assert "both orders favour the same answer on 20.0 % of 150 items, at least 50 % is expected" in told
    assert any(line.startswith("the two orders contradict each other on 80.0 %") for line in told)
    assert any(line.startswith("what is shown first is preferred with 90.0 %") for line in told)
    assert "shown second" in "".join(outside(verdicts(*[(0.1, 0.9)] * 40)))


def test_chance_is_no_reason_for_a_warning():
    assert outside(verdicts(*[(1.0, 1.0)] * 11, *[(1.0, 0.0)] * 7, *[(0.0, 1.0)] * 7)) == []  # 44 % of 25
    assert outside(verdicts(*[(1.0, 0.0)] * 9)) == []  # nine items say nothing
    assert outside([Verdict("0", "p", "j", p=1.0, orders=(1.0,))]) == []


def test_a_limit_that_is_set_counts_as_it_stands():
    half = verdicts((1.0, 1.0), (1.0, 0.0), (1.0, 1.0))
    assert outside(half, Limits(min_consistency=0.6)) == []
    assert len(outside(half, Limits(min_consistency=0.7, max_contradictions=0.3))) == 2


def test_limits_stand_in_the_judges_file(tmp_path):
    path = tmp_path / "judge.yaml"
    path.write_text("kind: openai\nname: m\nbase_url: http://127.0.0.1:1/v1\nmin_consistency: 0.8\n")
    assert load_judge(str(path)).limits == Limits(min_consistency=0.8)
    plain = load_judge("openai:m", base_url="http://127.0.0.1:1/v1")
    assert load_judge(str(path)).fingerprint == plain.fingerprint  # limits shape no verdict
    with pytest.raises(ConfigError, match="max_first_share is a share between 0 and 1, got 70"):
        load_judge("openai:m,max_first_share=70")


def test_aad_judge_exits_with_4_and_keeps_everything(files, tmp_path, loopback):
    url, _ = loopback(judge="position")
    done = aad("judge", *files, "--judge", "openai:planted", "--base-url", url, "--output", tmp_path / "out")
    assert done.exit_code == 4 and "WARNING: both orders favour the same answer on 0.0 % of 30 items" in done.output
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["n"] == 30
    assert aad("judge", "--from", tmp_path / "out" / "verdicts.jsonl").exit_code == 4
    lenient = tmp_path / "judge.yaml"
    limits = "min_consistency: 0\nmax_first_share: 1\nmax_contradictions: 1\n"
    lenient.write_text(f"kind: openai\nname: planted\nbase_url: {url}\n{limits}")
    assert aad("judge", *files, "--judge", lenient, "--output", tmp_path / "out").exit_code == 0
