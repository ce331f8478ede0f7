"""`aad judge --systems`, `aad league` and `aad judge --cascade`, as a user types them."""

from __future__ import annotations

import json

import pytest

from aad_plugin.errors import ConfigError
from tests.judges.test_cli import aad


@pytest.fixture
def systems(tmp_path):
    """Four files of 24 answers."""
    for name in ("north", "east", "south", "west"):
        rows = [{"instruction": f"Question {i}?", "output": f"{name} says {i * 7 % 11}\n- point"} for i in range(24)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    return [tmp_path / f"{name}.json" for name in ("north", "east", "south", "west")]


def test_many_systems_meet_in_a_round_robin(systems, tmp_path, loopback):
    url, state = loopback()
    out = tmp_path / "out"
    judge = ["--judge", "openai:planted", "--base-url", url, "--form", "json", "--output", out, "--draws", "100"]
    done = aad("judge", "--systems", *systems, *judge, "--style", "length", "--elo")
    assert done.exit_code == 0, done.output
    league = json.loads((out / "league.json").read_text())
    assert {one["system"] for one in league["standings"]} == {"north", "east", "south", "west"}
    assert league["battles"] == 24 * 6 and league["questions"] == 24
    assert [one["feature"] for one in league["effects"]] == ["length"] and len(league["sequential_elo"]) == 4
    assert "rank" in done.stdout and "Bradley-Terry" in done.stdout and "style, length" in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["n"] == 144 and "win_rate" not in summary and summary["systems"][0] == "north"
    asked = sum(state.seen.values())
    assert asked == 2 * 144

    again = aad("league", out, "--style", "length", "--elo", "--draws", "100", "--output", tmp_path / "again")
    assert again.exit_code == 0 and sum(state.seen.values()) == asked
    rebuilt = json.loads((tmp_path / "again" / "league.json").read_text())
    assert rebuilt["standings"] == league["standings"] and rebuilt["effects"] == league["effects"]


def test_against_an_anchor_only_it_is_met(systems, tmp_path, loopback):
    url, _ = loopback()
    out = tmp_path / "out"
    named = [f"base={systems[0]}", *systems[1:]]
    done = aad("judge", "--systems", *named, "--anchor", "base", "--judge", "openai:planted", "--base-url", url,
               "--form", "json", "--output", out, "--draws", "100")  # fmt: skip
    assert done.exit_code == 0, done.output
    league = json.loads((out / "league.json").read_text())
    assert league["battles"] == 24 * 3 and league["zero"] == "base"
    assert next(one["score"] for one in league["standings"] if one["system"] == "base") == 0


def test_judged_folders_make_a_league(systems, tmp_path, loopback):
    url, _ = loopback()
    judge = ["--judge", "openai:planted", "--base-url", url, "--form", "json"]
    folders = [tmp_path / name for name in ("one", "two")]
    for folder, (candidate, baseline) in zip(folders, ((0, 1), (1, 2)), strict=True):
        files = ["--candidate", systems[candidate], "--baseline", systems[baseline]]
        assert aad("judge", *files, *judge, "--output", folder).exit_code == 0
    done = aad("league", *folders, "--draws", "100", "--output", tmp_path / "league")
    assert done.exit_code == 0, done.output
    league = json.loads((tmp_path / "league" / "league.json").read_text())
    assert {one["system"] for one in league["standings"]} == {"north", "east", "south"}
    assert aad("judge", "--from", folders[0] / "verdicts.jsonl", "--output", folders[0]).exit_code == 0
    again = aad("league", *folders, "--draws", "100", "--output", tmp_path / "again")  # was: no names
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "again" / "league.json").read_text())["standings"] == league["standings"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.json"], "unexpected argument 'x.json'; many systems follow --systems"),
        (["--systems", "a.json", "--judge", "reward:demo"], "a league needs at least two systems, got a"),
        (["--systems", "a.json", "b/a.json", "--judge", "reward:demo"], "are both named 'a'; name one as in a-2=b/a.json"),
        (["--systems", "a.json", "b.json", "--anchor", "c", "--judge", "reward:demo"], "the anchor 'c' is none of"),
        (["--systems", "a.json", "b.json", "--candidate", "c", "--judge", "x:y"], "not both"),
        (["--anchor", "c", "--candidate", "a.json", "--judge", "x:y"], "--anchor belongs to --systems"),
        (["--systems", "a.json", "b.json", "--cascade", "x:y", "--judge", "x:y"], "--cascade compares two systems"),
        (
            ["--systems", "a.json", "b.json", "--judge", "x:y", "--repeats", "2", "--challenge"],
            "--systems makes no use of --repeats, --challenge, which belong to verdicts of --judge on one",
        ),
        (
            ["--candidate", "a.json", "--judge", "x:y", "--cascade", "x:z", "--labels", "l", "--difficulties", "d"],
            "--cascade makes no use of --labels, --difficulties",
        ),
        (["--systems", "a.json", "b.json", "--judge", "x:y", "--df-gamed", "g.csv"], "makes no use of --df-gamed"),
        (["--systems", "a.json", "b.json"], r"pass --candidate FILE and --judge SPEC .* for many systems --systems FILE"),
    ],
    ids=["argument", "one", "names", "anchor", "both", "anchor alone", "cascade", "ignored", "ignored too", "gamed",
         "no judge"],
)  # fmt: skip
def test_mistakes_are_one_line(arguments, message, monkeypatch):
    from aad_plugin.judges.kinds import specs as kinds

    monkeypatch.setattr(kinds, "load_judge", lambda *_, **__: None)
    with pytest.raises(ConfigError, match=message):
        raise aad("judge", *arguments).exception


def test_a_league_of_nothing_and_of_foreign_files_is_one_line(tmp_path):
    for arguments, message in (
        ([], "pass the battles to rank by"),
        ([tmp_path], "holds neither battles.jsonl nor verdicts.jsonl"),
    ):
        with pytest.raises(ConfigError, match=message):
            raise aad("league", *arguments).exception
    (tmp_path / "x.jsonl").write_text('{"model_a": "a", "model_b": "b", "question_id": 1, "winner": "c"}\n')
    with pytest.raises(
        ConfigError, match=r"line 1: winner must be one of model_a, tie, tie \(bothbad\), model_b, got 'c'"
    ):
        raise aad("league", tmp_path / "x.jsonl").exception


def test_a_cascade_from_the_command_line(files, tmp_path, loopback):
    (cheap, asked_cheap), (dear, asked_dear) = loopback(judge="length"), loopback(judge="quality")
    out = tmp_path / "out"
    done = aad(
        "judge", *files, "--judge", f"openai:planted,base_url={cheap},form=logprobs",
        "--cascade", f"openai:planted,base_url={dear},form=json", "--dear-share", "0.5", "--price", "1/1", "--output", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    figures = json.loads((out / "cascade.json").read_text())
    assert sum(asked_cheap.seen.values()) == 60 and sum(asked_dear.seen.values()) == 2 * figures["n_asked"] < 60
    assert "unbiased whatever" in done.stdout and "cost" in done.stdout
    assert len((out / "cascade.jsonl").read_text().splitlines()) == 30


def test_a_cyclic_jury_from_the_command_line(files, tmp_path, loopback):
    servers = [loopback(judge=name) for name in ("quality", "fair")]
    judges = [
        ["--judge", f"openai:planted,base_url={url},form={form}"]
        for (url, _), form in zip(servers, ("json", "tag"), strict=True)
    ]
    done = aad("judge", *files, *judges[0], *judges[1], "--jury", "cyclic", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert [sum(state.seen.values()) for _, state in servers] == [30, 30]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["n"] == 30 and summary["judge"].startswith("cyclic jury: openai:planted + openai:planted (2)")
    with pytest.raises(ConfigError, match="--max-cost may stop one judge of a cyclic jury before the others"):
        raise aad("judge", *files, *judges[0], *judges[1], "--jury", "cyclic", "--max-cost", "1").exception
    with pytest.raises(ConfigError, match="--jury cyclic deals prompts out among several judges"):
        raise aad("judge", *files, *judges[0], "--jury", "cyclic", "--output", tmp_path / "o").exception
