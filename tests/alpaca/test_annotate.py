"""``aad alpaca-eval annotate`` and ``leaderboard``: both routes, resumed, killed, refused; and their figures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from aad_plugin.alpaca.evaluator_configs import configurations
from aad_plugin.alpaca.leaderboard import row_of
from aad_plugin.errors import BackendMissing, ConfigError, JudgeUnavailable
from aad_plugin.judges import load_judge
from aad_plugin.judges.statistics import official
from tests.alpaca.made import NUM, outputs, references, write
from tests.alpaca.submissions import NAME, files
from tests.alpaca.test_generate import RUN
from tests.judges.test_alpaca_eval import annotator, client_config
from tests.public_data import DATA, needs_public_data

__all__ = ["annotator"]


@pytest.fixture
def given(tmp_path, own_set):
    """Arguments of a run on one's own set."""
    made = write(tmp_path / "gen" / "model_outputs.json", outputs("mine"))
    return ["annotate", "--outputs", made.parent, "--reference", own_set, "--output", tmp_path / "judged"]


def rows_of(tmp_path):
    return json.loads((tmp_path / "judged" / "annotations.json").read_text())


def ours(url, *more):
    return ["--judge", "openai:planted", "--base-url", url, *more]


# ---------------------------------------------------------------- our judges


def test_our_judge_writes_annotations_in_both_orders_once(aad, given, tmp_path, loopback):
    url, state = loopback()
    done = aad(*given, *ours(url))
    assert done.exit_code == 0, done.output
    rows = rows_of(tmp_path)
    assert len(rows) == NUM and len(state.seen) == 2 * NUM + 1  # and the probe
    name = rows[0]["annotator"]
    assert name.startswith("aad_openai_planted_") and {row["annotator"] for row in rows} == {name}
    assert f"judge {name}: a custom judge, NOT AlpacaEval 2's official one" in done.stdout
    for row, out, ref in zip(rows, outputs("mine"), references(), strict=True):
        assert (row["instruction"], row["output_1"], row["output_2"]) == (
            ref["instruction"],
            ref["output"],
            out["output"],
        )
        assert (row["generator_1"], row["generator_2"], row["dataset"]) == ("plain", "mine", "own")
        first, second = row["raw_completion"]["p_better_by_order"]
        assert row["preference"] == pytest.approx(1 + (first + second) / 2)
    asked = sum(state.seen.values())
    assert aad(*given, *ours(url)).exit_code == 0 and rows_of(tmp_path) == rows
    assert sum(state.seen.values()) == asked
    summary = json.loads((tmp_path / "judged" / "summary.json").read_text())
    row = row_of(rows)
    assert row.win_rate / 100 == pytest.approx(summary["win_rate"], abs=1e-12)
    assert row.standard_error / 100 == pytest.approx(summary["standard_error"], abs=1e-12)
    assert (row.n_wins, row.n_wins_base, row.n_draws) == (summary["wins"], summary["losses"], summary["ties"])


def test_a_judge_that_fails_midway_keeps_what_it_said(aad, given, tmp_path, loopback):
    url, state = loopback()
    dead = [(402, {"error": {"message": "quota", "code": "insufficient_quota"}})]
    assert aad(*given, *ours(url, "--form", "logprobs", "--concurrency", "1"), "--partial").exit_code == 0
    before = dict(state.seen)
    (tmp_path / "judged" / "annotations.json").unlink()
    lines = (tmp_path / "judged" / "store.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "judged" / "store.jsonl").write_text("".join(lines[:11]))
    state.fails = list(dead)
    with pytest.raises(JudgeUnavailable, match="quota is exhausted"):
        raise aad(*given, *ours(url, "--form", "logprobs", "--concurrency", "1")).exception
    assert not (tmp_path / "judged" / "annotations.json").exists()
    assert aad(*given, *ours(url, "--form", "logprobs", "--concurrency", "1")).exit_code == 0
    # header and ten rulings were kept; of the other fourteen one was asked for twice, when the quota ended
    again = sum(state.seen.values()) - sum(before.values())
    assert len(rows_of(tmp_path)) == NUM and again == 2 * NUM - 10 + 1


def test_a_run_by_request_file_writes_annotations_when_it_is_finished(aad, given, tmp_path, loopback):
    url, state = loopback()
    how = ours(url, "--form", "logprobs")
    done = aad(*given, *how, "--transport", "file")
    assert (
        done.exit_code == 2 and "12 rows were not asked yet; annotations.json is written by the run that" in done.stderr
    )
    assert not (tmp_path / "judged" / "annotations.json").exists() and not state.seen
    requests = (tmp_path / "judged" / "requests.jsonl").read_text().splitlines()
    bodies = {line["custom_id"]: line["body"] for line in map(json.loads, requests)}
    replies = [
        {"custom_id": key, "response": {"status_code": 200, "body": state.completion(body)}}
        for key, body in bodies.items()
    ]
    (tmp_path / "judged" / "results.jsonl").write_text("".join(json.dumps(reply) + "\n" for reply in replies))
    assert aad(*given, *how, "--transport", "file").exit_code == 0 and len(rows_of(tmp_path)) == NUM


def test_unjudged_rows_are_null_and_the_exit_code_2(aad, given, tmp_path, loopback):
    url, state = loopback()
    state.fails = [(400, {"error": {"message": "no", "code": "x"}})] * 2
    done = aad(*given, *ours(url, "--form", "logprobs", "--concurrency", "1"))
    assert done.exit_code == 2 and "1 of 12 rows have no preference" in done.stderr
    (lost,) = [row for row in rows_of(tmp_path) if row["preference"] is None]
    assert lost["raw_completion"]["reason"] == "rejected"
    assert aad(*given, *ours(url, "--form", "logprobs")).exit_code == 0
    assert all(row["preference"] is not None for row in rows_of(tmp_path))


def killed_and_resumed(arguments, tmp_path, state, questions):
    """Run, kill -9 after a few verdicts, run again; no question is lost, and only those in flight are asked twice."""
    command = [sys.executable, "-c", RUN, *map(str, arguments), "--concurrency", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    store = tmp_path / "judged" / "store.jsonl"

    def kept():
        return len(store.read_text().splitlines()) - 1 if store.exists() else 0

    while kept() < 6 and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 6 <= kept() < questions and not (tmp_path / "judged" / "annotations.json").exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert len(rows_of(tmp_path)) == NUM == sum(row["preference"] is not None for row in rows_of(tmp_path))
    assert len(state.seen) == questions and sum(times - 1 for times in state.seen.values()) <= 2


def test_a_kill_costs_no_more_than_what_was_in_flight(given, tmp_path, loopback):
    url, state = loopback(latency_s=0.15)
    killed_and_resumed([*given, *ours(url, "--form", "logprobs")], tmp_path, state, 2 * NUM)


@pytest.mark.slow
def test_nor_does_a_kill_of_alpaca_evals_annotator(given, tmp_path, loopback, annotator, monkeypatch):
    url, state = loopback(latency_s=0.15)
    client_config(tmp_path, monkeypatch, url)
    killed_and_resumed([*given, "--annotator", annotator], tmp_path, state, NUM)


# ---------------------------------------------------------------- alpaca_eval's annotator


@pytest.mark.grid
def test_alpaca_evals_annotator_as_it_runs_itself(aad, given, tmp_path, loopback, annotator, monkeypatch):
    url, state = loopback()
    client_config(tmp_path, monkeypatch, url)
    done = aad(*given, "--annotator", annotator)
    assert done.exit_code == 0, done.output
    rows = rows_of(tmp_path)
    assert {row["annotator"] for row in rows} == {"planted"} and len(state.seen) == NUM
    from tests.judges.planted import quality

    for row in rows:  # whichever order was drawn, the planted judge prefers by quality
        better = quality(row["output_2"]) > quality(row["output_1"])
        assert (row["preference"] > 1.5) == better
    assert aad(*given, "--annotator", annotator).exit_code == 0 and rows_of(tmp_path) == rows
    assert sum(state.seen.values()) == NUM


@pytest.mark.slow
def test_one_pair_that_alpaca_eval_cannot_judge_costs_no_other(aad, given, tmp_path, loopback, annotator, monkeypatch):
    url, state = loopback()
    client_config(tmp_path, monkeypatch, url)
    state.fails = [(400, {"error": {"message": "context length", "code": "x"}})] * 2
    done = aad(*given, "--annotator", annotator, "--concurrency", "1", "--max-unjudged", "0.5")
    assert done.exit_code == 1 and isinstance(done.exception, JudgeUnavailable)
    assert "alpaca_eval failed: BadRequestError" in str(done.exception)
    state.fails = [(400, {"error": {"message": "context length", "code": "x"}})]
    done = aad(*given, "--annotator", annotator, "--concurrency", "4", "--max-unjudged", "0.5")
    assert done.exit_code == 0, done.output
    assert sum(row["preference"] is None for row in rows_of(tmp_path)) == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(found.name, marks=pytest.mark.grid if i else pytest.mark.slow)
        for i, found in enumerate(configurations())
    ],
)
def test_every_shipped_evaluator_runs_in_alpaca_eval(aad, given, tmp_path, loopback, monkeypatch, name):
    import yaml

    (found,) = [one for one in configurations() if one.name == name]
    config = yaml.safe_load((found.folder / "configs.yaml").read_text())[name]
    soft = config["fn_completion_parser"] == "logprob_parser"
    url, state = loopback(model=config["completions_kwargs"]["model_name"], text=None if soft else "M")
    client_config(tmp_path, monkeypatch, url)
    done = aad(*given, "--annotator", name)
    assert done.exit_code == 0, done.output
    values = {row["preference"] for row in rows_of(tmp_path)}
    assert len(values) > 2 if soft else values == {1.0, 2.0}  # a fixed letter under drawn orders
    assert len(state.seen) == NUM


def test_a_missing_or_broken_alpaca_eval_is_named(aad, given, annotator, monkeypatch, tmp_path):
    monkeypatch.setattr(official.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendMissing, match=r"which is not installed: pip install 'aad_plugin\[alpaca\]'"):
        raise aad(*given, "--annotator", annotator).exception
    monkeypatch.undo()
    broken = tmp_path / "broken" / "alpaca_eval"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("import no_such_package")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    with pytest.raises(BackendMissing, match=r"is installed, but importing it fails \(ModuleNotFoundError: No module named "
                       r"'no_such_package'\); pip install 'aad_plugin\[alpaca\]' installs versions"):  # fmt: skip
        raise aad(*given, "--annotator", annotator).exception


def test_the_official_judges_name_is_not_to_be_had(aad, given):
    with pytest.raises(ConfigError, match=r"its provider has shut gpt-4-1106-preview down, so whatever answers"):
        raise aad(*given, "--annotator", "weighted_alpaca_eval_gpt4_turbo").exception


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass --annotator .* or --judge .*; got neither"),
        (["--judge", "reward:demo", "--annotator", "x"], "got both"),
        (["--judge", "nonsense"], "a judge is named kind:name"),
        (
            ["--annotator", "weighted_alpaca_eval_gpt4_turbi"],
            "no annotator .*did you mean 'weighted_alpaca_eval_gpt4_turbo'",
        ),
        (["--judge", "openai:x", "--temperature", "-1"], "temperature must be a number of at least 0"),
    ],
)
def test_mistakes_are_one_line(aad, given, arguments, message):
    with pytest.raises(ConfigError, match=message):
        raise aad(*given, *arguments).exception


def test_outputs_that_do_not_fit_are_refused_before_anything_is_paid(aad, tmp_path, own_set, loopback):
    url, state = loopback()
    good = outputs("mine")
    for rows, message in (
        ([good[1], good[0], *good[2:]], "rows must stand in the order of the instructions"),
        (good[:5], "expected 12 instructions, 7 are missing"),
        ([*good[:-1], good[0]], "1 instructions are answered twice"),
        ([good[0] | {"output": ""}, *good[1:]], "1 outputs are empty, first: row 1"),
        ([good[0] | {"output": ["x"]}, *good[1:]], r'output must be a text, got \["x"\]'),
        ([], "holds no outputs"),
    ):
        path = write(tmp_path / "rows.json", rows)
        with pytest.raises(ConfigError, match=message):
            raise aad(
                "annotate", "--outputs", path, "--reference", own_set, "--output", tmp_path / "j", *ours(url)
            ).exception
    bare = write(tmp_path / "bare.json", [{"instruction": row["instruction"]} for row in good])
    with pytest.raises(ConfigError, match="holds instructions but not the reference's outputs"):
        raise aad("annotate", "--outputs", write(tmp_path / "g.json", good), "--reference", bare, "--output",
                  tmp_path / "j", *ours(url)).exception  # fmt: skip
    assert not state.seen


def test_a_folder_belongs_to_one_model(aad, given, tmp_path, own_set, loopback):
    url, _ = loopback()
    assert aad(*given, *ours(url)).exit_code == 0
    other = write(tmp_path / "other.json", outputs("other"))
    with pytest.raises(ConfigError, match="holds annotations of 'mine', not of 'other'; pass another --output"):
        raise aad(*given, *ours(url), "--outputs", other).exception


# ---------------------------------------------------------------- leaderboard


@needs_public_data
def test_tables_keep_judges_apart_and_parts_get_no_length_control(aad, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, annotations = files(tmp_path / "made")
    board = DATA / "alpaca_eval_2_leaderboard.csv"
    hard = DATA / "alpaca_eval_instruction_difficulty.csv"
    done = aad("leaderboard", "--annotations", annotations, "--published", board, "--difficulties", hard, "--top", "3")
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert "Judge: aad_test_judge: a custom judge, NOT AlpacaEval 2's official one" in text
    assert "Judge: alpaca_eval_2, as the file of published rows is named" in text
    assert "Figures of different judges do not compare; hence a table for each." in text
    assert f"* {NAME}" in text and "10.34 ± 0.94" in text and "NullModel" in text
    assert "own GLM (binomial, unpenalised) on length and AlpacaEval's instruction difficulties" in text
    part = write(tmp_path / "part.json", json.loads(annotations.read_text())[:100])
    with pytest.raises(ConfigError, match="or --partial to have it labelled so"):
        raise aad("leaderboard", "--annotations", part).exception
    done = aad("leaderboard", "--annotations", part, "--partial")
    text = " ".join(done.stdout.split())
    assert "(partial)" in text and "a part of AlpacaEval: 100 of 805 instructions; LC: none for a part" in text
    official = files(tmp_path / "official", "weighted_alpaca_eval_gpt4_turbo")[1]
    named = tmp_path / "weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
    named.write_text(board.read_text())
    done = aad("leaderboard", "--annotations", official, "--published", named, "--top", "1")
    assert done.stdout.count("Judge: ") == 1 and "its provider has since shut down" in " ".join(done.stdout.split())


def test_mixed_files_are_no_table(aad, tmp_path):
    same = {"output_1": "a", "output_2": "b", "generator_1": "r", "annotator": "j", "preference": 1.0}
    rows = [{"instruction": str(n), "generator_2": f"m{n}", **same} for n in range(2)]
    with pytest.raises(ConfigError, match="one generator_2 per file is expected, got m0, m1"):
        raise aad("leaderboard", "--annotations", write(tmp_path / "a.json", rows)).exception
    with pytest.raises(
        ConfigError, match=r"entry 1 is no annotation: preference must be a number from 1 to 2, or null, got 7"
    ):
        raise aad("leaderboard", "--annotations", write(tmp_path / "a.json", [rows[0] | {"preference": 7}])).exception
    with pytest.raises(ConfigError, match="must have the columns win_rate"):
        table = tmp_path / "x.csv"
        table.write_text(",a\nb,1\n")
        raise aad("leaderboard", "--annotations", write(tmp_path / "a.json", rows[:1]), "--published", table).exception


def test_options_of_alpaca_eval_judges(annotator):
    with pytest.raises(ConfigError, match="order must be both or seeded, got 'x'"):
        load_judge(f"alpaca_eval:{annotator}", order="x")
    with pytest.raises(ConfigError, match="concurrency must be a whole number of at least 1, got 0"):
        load_judge(f"alpaca_eval:{annotator}", concurrency=0)
    both, seeded = (load_judge(f"alpaca_eval:{annotator}", order=order) for order in ("both", "seeded"))
    assert both.fingerprint != seeded.fingerprint and (both.both_orders, seeded.both_orders) == (True, False)
