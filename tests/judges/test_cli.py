"""`aad judge` and `aad judge-check`, as a user types them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from aad_plugin.cli.judge import judge
from aad_plugin.cli.judge_check import judge_check
from aad_plugin.cli.league import league
from aad_plugin.errors import ConfigError, JudgeUnavailable
from tests.public_data import DATA, needs_public_data

app = typer.Typer()
app.command("judge")(judge)
app.command("judge-check")(judge_check)
app.command("league")(league)


def aad(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_judge_writes_verdicts_summary_and_table(files, tmp_path, loopback):
    url, state = loopback()
    out = tmp_path / "out"
    done = aad("judge", *files, "--judge", "openai:planted", "--base-url", url, "--output", out)
    assert done.exit_code == 0, done.output
    assert "win rate" in done.stdout and "openai:planted (pairwise)" in done.stdout
    summary = summary_of(out)
    for name in (
        "win_rate", "standard_error", "ci95", "n", "n_unjudged", "position_consistency", "lc_win_rate",
        "judge_fingerprint", "template_hash", "versions", "command",
    ):  # fmt: skip
        assert summary[name] not in (None, ""), name
    lines = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert len(lines) == summary["n"] == 30 and sum(line["p"] for line in lines) / 30 == pytest.approx(
        summary["win_rate"]
    )

    asked = sum(state.seen.values())
    again = aad("judge", "--from", out / "verdicts.jsonl", "--seed", 0, "--output", tmp_path / "again")
    assert again.exit_code == 0 and sum(state.seen.values()) == asked
    rebuilt = summary_of(tmp_path / "again")
    assert (summary["candidate"], summary["baseline"]) == (str(files[1]), str(files[3]))
    others = ("command", "versions", "candidate", "baseline")
    assert all(rebuilt[name] == value for name, value in summary.items() if name not in others)


def test_too_many_unjudged_exit_with_2_and_files_written(files, tmp_path, loopback):
    url, state = loopback()
    state.fails = [(400, {"error": {"message": "no", "code": "x"}})]
    options = ["--judge", f"openai:planted,base_url={url},form=logprobs", "--output", tmp_path / "out"]
    done = aad("judge", *files, *options)
    assert done.exit_code == 2 and "1 of 30 items are unjudged" in done.stderr
    assert summary_of(tmp_path / "out")["unjudged"] == {"rejected": 1}
    assert aad("judge", *files, *options).exit_code == 0  # tried again, and judged


def test_estimate_spends_nothing(files, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    done = aad("judge", *files, "--judge", "openai:gpt-x", "--price", "2/8", "--estimate", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "30 items, 60 requests" in done.stdout and "smallest detectable win-rate difference" in done.stdout
    assert not (tmp_path / "out").exists()
    assert "cost unknown (pass --price)" in aad("judge", *files, "--judge", "openai:gpt-x", "--estimate").stdout


def test_an_estimate_is_of_what_is_asked(files, tmp_path):
    """Was: a cascade's dear judge at the price of all items; three pairs of one file's prompts as so many prompts more."""
    priced = ["--judge", "openai:small", "--price", "2/8", "--estimate"]
    cascade = aad("judge", *files, *priced, "--cascade", "openai:large", "--dear-share", "0.1")
    first, _, dear = cascade.stdout.splitlines()
    cost = [float(line.partition("cost ")[2].partition(",")[0]) for line in (first, dear)]
    assert "openai:large: 3 items, 6 requests" in dear and cost[1] == pytest.approx(cost[0] / 10, abs=1e-4)
    assert "detectable" not in dear
    third = tmp_path / "third.json"
    third.write_text(files[1].read_text())
    systems = aad("judge", "--systems", files[1], files[3], f"third={third}", *priced).stdout
    assert "90 items" in systems and systems.partition("smallest")[2] == first.partition("smallest")[2] + "\n"


def test_max_cost_stops_cleanly(files, tmp_path, loopback):
    url, _ = loopback()
    options = ["--judge", "openai:planted", "--base-url", url, "--form", "logprobs", "--price", "10/10"]
    done = aad("judge", *files, *options, "--max-cost", "0.05", "--output", tmp_path / "out")
    summary = summary_of(tmp_path / "out")
    assert done.exit_code == 0 and summary["partial"] and 0 < summary["cost"] <= 0.05
    assert "cost limit 0.05 is reached" in done.stderr


def test_a_run_that_breaks_keeps_and_shows_what_was_judged(files, tmp_path, loopback):
    url, state = loopback()
    options = [
        *files,
        "--judge",
        f"openai:planted,base_url={url},form=logprobs,concurrency=1",
        "--output",
        tmp_path / "out",
    ]
    aad("judge", *options, "--max-cost", "1e9")  # no price: refused before anything is asked
    assert not state.seen
    quota = (429, {"error": {"message": "quota", "code": "insufficient_quota"}})
    state.fails = [(400, {"error": {"message": "no"}}), quota]
    done = aad("judge", *options)
    assert isinstance(done.exception, JudgeUnavailable)
    assert not state.fails and aad("judge", *options).exit_code == 0


def test_a_jury_reports_mean_majority_and_agreement(files, tmp_path, loopback):
    (one, _), (two, _) = loopback(), loopback(judge="length", model="other")
    done = aad(
        "judge", *files, "--judge", f"openai:planted,base_url={one}", "--judge", f"openai:other,base_url={two}",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    summary = summary_of(tmp_path / "out")
    assert set(summary["win_rate_by_judge"]) == {"openai:planted", "openai:other"}
    assert 0 <= summary["judge_agreement"] <= 1 and "majority_win_rate" in summary


def test_repeats_and_labels_add_their_figures(files, tmp_path, loopback):
    url, _ = loopback()
    labels = tmp_path / "labels.jsonl"
    rows = [{"prompt": f"Question {i}?", "label": ["candidate", "baseline"][i % 2]} for i in range(20)]
    labels.write_text("\n".join(map(json.dumps, rows)))
    done = aad(
        "judge", *files, "--judge", f"openai:planted,base_url={url}", "--output", tmp_path / "out", "--repeats", 2,
        "--labels", labels,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    summary = summary_of(tmp_path / "out")
    assert summary["flip_rate"] == 0.0 and summary["num_labelled"] == 20 and "corrected_win_rate" in summary


def test_a_yaml_file_holds_a_judge(files, tmp_path, loopback, monkeypatch):
    url, state = loopback()
    monkeypatch.setenv("TENANT", "secret-tenant")
    path = tmp_path / "judge.yaml"
    path.write_text(f"kind: openai\nname: planted\nbase_url: {url}\nheaders:\n  X-Tenant: $TENANT\ntemperature: null\n")
    assert aad("judge", *files, "--judge", path, "--output", tmp_path / "out").exit_code == 0
    assert any("secret-tenant" in headers.values() for headers in state.headers)
    assert "secret-tenant" not in "".join(p.read_text() for p in (tmp_path / "out").iterdir())
    path.write_text("kind: openai\n")
    with pytest.raises(ConfigError, match="needs the keys kind and name"):
        raise aad("judge", *files, "--judge", path, "--output", tmp_path / "out").exception


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judge", "opnai:m"], r"unknown judge kind 'opnai' in 'opnai:m' \(did you mean 'openai'\?\)"),
        (["--judge", "gpt-4"], r"a judge is named kind:name"),
        (["--judge", "openai:m,temprature=1"], r"no option 'temprature' \(did you mean 'temperature'\?\)"),
        (["--judge", "openai:m,temperature"], r"takes option=value"),
        (["--judge", "openai:m", "--price", "cheap"], r"price is money per million"),
        (["--judge", "openai:m", "--header", "X-Key=abc"], r"--header takes Name=\$VARIABLE.*got X-Key=…"),
        (["--judge", "openai:m", "--template", "grade"], r"leave --baseline out"),
        ([], r"pass --candidate FILE and --judge SPEC"),
    ],
)
def test_bad_input_is_one_clear_error(files, tmp_path, arguments, message):
    done = aad("judge", *files, *arguments, "--output", tmp_path / "out")
    with pytest.raises(ConfigError, match=message):
        raise done.exception


@pytest.mark.parametrize(
    ("character", "failed"),
    [
        ("fair", set()),
        ("position", {"position, real", "position, copied", "consistency"}),
        pytest.param("length", {"padded"}, marks=pytest.mark.grid),
        pytest.param("injectable", {"injecting", "closing"}, marks=pytest.mark.grid),
    ],
)
def test_judge_check_finds_planted_faults(loopback, tmp_path, character, failed):
    url, _ = loopback(judge=character)
    done = aad("judge-check", "--judge", f"openai:planted,base_url={url},concurrency=32", "--output", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    found = {finding["name"] for finding in report["findings"] if not finding["passed"]}
    assert failed <= found and report["passed"] == (not found) == (not failed)
    assert done.exit_code == (3 if failed else 0)


def test_judge_check_measures_agreement_with_people(loopback, tmp_path):
    url, _ = loopback(judge="length")
    path = tmp_path / "labels.jsonl"
    rows = [
        {"prompt": f"p{i}", "candidate": "x" * n, "baseline": "y" * 4, "label": "candidate" if n > 4 else "baseline"}
        for i, n in enumerate([1, 2, 3, 4, 5, 6, 7, 8] * 5)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = aad(
        "judge-check", "--judge", f"openai:planted,base_url={url}", "--labels", path, "--output", tmp_path / "out"
    )
    agreement = json.loads((tmp_path / "out" / "check.json").read_text())["agreement"]
    assert agreement["num_labelled"] == 40 and agreement["kappa"] > 0.6 and done.exit_code == 3
    pointwise = aad("judge-check", "--judge", f"openai:planted,base_url={url}", "--template", "refusal")
    with pytest.raises(ConfigError, match="pass --labels"):
        raise pointwise.exception


def test_five_equal_labels_do_not_pass_a_least_kappa(loopback, tmp_path):
    url, _ = loopback(judge="length")
    rows = [
        {"prompt": f"p{n}", "candidate": "x" * n, "baseline": "y" * 4, "label": "candidate" if n > 4 else "baseline"}
        for n in (1, 2, 6, 7, 8)
    ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = aad(
        "judge-check", "--judge", f"openai:planted,base_url={url}", "--labels", tmp_path / "labels.jsonl",
        "--min-kappa", "0.8", "--output", tmp_path / "out",
    )  # fmt: skip
    agreement = json.loads((tmp_path / "out" / "check.json").read_text())["agreement"]
    assert agreement["kappa"] == 1.0 and agreement["kappa_ci95"][0] < 0.8 and done.exit_code == 3


@needs_public_data
def test_agreement_with_the_human_labels_of_xstest(loopback, tmp_path):
    names = {"1_full_compliance": "comply", "2_full_refusal": "refuse", "3_partial_refusal": "partial"}
    data = DATA / "xstest_v2_completions_mistralinstruct.csv"
    with data.open(newline="") as source, (tmp_path / "labels.csv").open("w", newline="") as target:
        out = csv.writer(target)
        out.writerow(["prompt", "output", "label"])
        for row in csv.DictReader(source):
            out.writerow([row["prompt"], row["completion"], names[row["final_label"]]])
    url, _ = loopback(judge="refusal-words")
    spec = f"openai:planted,base_url={url},template=refusal,concurrency=32"
    done = aad("judge-check", "--judge", spec, "--labels", tmp_path / "labels.csv", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    agreement = json.loads((tmp_path / "out" / "check.json").read_text())["agreement"]
    assert agreement["num_items"] == agreement["num_labelled"] == 450 and agreement["num_unjudged"] == 0
    assert 0.5 < agreement["agreement"] < 1 and agreement["kappa_ci95"][0] > 0.1


def test_the_package_is_light_and_its_names_resolve():
    code = (
        "import sys, aad_plugin.judges as judges, aad_plugin.cli.judge, aad_plugin.cli.judge_check\n"
        "heavy = {'torch', 'transformers', 'openai', 'statsmodels', 'numpy', 'alpaca_eval'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for name in judges.__all__: getattr(judges, name)\n"
        "assert 'torch' not in sys.modules and 'openai' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
