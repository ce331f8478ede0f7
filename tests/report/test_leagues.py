"""A league of many systems on the report's page."""

from __future__ import annotations

import json

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.judges.leagues.battles import Battle
from aad_plugin.judges.leagues.files import league_json, write_league
from aad_plugin.judges.leagues.table import league_of
from aad_plugin.report.building import build_report, read_runs
from aad_plugin.report.content import page_content

WON, TIED, LOST = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@pytest.fixture
def folder(tmp_path):
    battles = [Battle(str(at), "<b>best</b>", other, WON) for at in range(20) for other in ("x", "y")]
    battles += [Battle(str(at), "x", "y", (WON, TIED, LOST)[at % 3]) for at in range(20)]
    write_league(tmp_path / "league", league_json(league_of(battles, draws=100)))
    (tmp_path / "league" / "battles.jsonl").write_text("")
    (tmp_path / "league" / "verdicts.jsonl").write_text('{"id": "x | y | 0", "prompt": "a", "judge": "j", "p": 1}\n')
    return tmp_path / "league"


def test_a_league_is_drawn_and_its_verdicts_are_no_comparison(folder, tmp_path):
    (run,) = read_runs([str(folder)])
    assert not run.tasks and not run.problems
    content = page_content([run], title="t", max_traces=0)
    (league,) = content["leagues"]
    assert league["standings"][0]["system"] == "<b>best</b>" and content["wins"] == []
    best = league["standings"][0]
    assert best["high"] is None and best["low"] > 0 and "never loses" in best["note"]
    build_report([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert 'id="leagues"' in page and "<b>best" not in page


def test_a_broken_league_is_said_in_one_line(folder):
    content = json.loads((folder / "league.json").read_text())
    content["standings"][0]["score"] = None
    (folder / "league.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"no results in .*league.json is no league \(ValueError: the standing of"):
        read_runs([str(folder)])
