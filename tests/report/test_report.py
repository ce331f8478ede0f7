"""Reading runs and writing the page: what belongs together, what is left out and said, what the file holds."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aad_plugin.cli.main import app
from aad_plugin.errors import ConfigError
from aad_plugin.explain.records import Step, Token
from aad_plugin.explain.trace_files import AnswerTrace, TraceWriter, text_hash
from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.results import write_results
from aad_plugin.judges.statistics.summary import summarize
from aad_plugin.pages.page import script_json
from aad_plugin.report.building import build_report, read_runs
from aad_plugin.report.content import page_content
from aad_plugin.report.documents import AnswerText, Document
from aad_plugin.report.figures import figures_of, win_rates_of
from aad_plugin.report.runs import read_run
from aad_plugin.report.verdict_folders import Comparison
from aad_plugin.texts.messages import prompt_hash
from tests.harness.conftest import evaluate, task_folder
from tests.report.planted import NASTY, texts, write_run

__all__ = ["evaluate", "task_folder"]  # fixtures


def drawn(rng: random.Random, number: int) -> float:
    return rng.random()


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run", texts(100, 80), p_of=drawn)


def trace_for(folder: Path, rows, name: str = "aad", length: int = 3) -> None:
    """Traces of the answers by one name, three letters per token."""
    writer = TraceWriter(folder, "model", {})
    for row in rows:
        text = row["judged"]["answers"][name][0]
        pieces = [text[i : i + length] for i in range(0, len(text), length)]
        steps = []
        for number, piece in enumerate(pieces):
            token, other = Token(number, piece, -0.5, -0.5 - 0.1 * number), Token(-1, "<b>other", -0.25, -0.2)
            steps.append(Step(token, other if number % 3 == 0 else token, (other, token), 2))
        writer.add(
            AnswerTrace(
                f"{row['doc_id']}{name}", "planted", row["doc_id"], name, "{}", row["prompt_hash"], text_hash(text)
            ),
            tuple(steps),
        )
    writer.flush()


def samples_of(run: Path):
    (path,) = run.glob("out/*/samples_*")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_samples_and_verdicts_of_one_folder_are_joined(run):
    found = read_run(str(run))
    task = found.tasks["planted"]
    assert (found.name, found.dtype, found.problems) == ("run", "bfloat16", [])
    assert len(task.documents) == 100 and task.metrics["length_aad,none"] == (80.0, 0.01)
    (win,) = win_rates_of([found])
    assert (win.candidate, win.rival, win.judge, win.n, win.unjudged) == (
        "aad",
        "greedy",
        "openai:planted",
        100,
        {"refused": 2},
    )
    assert win.low < win.rate < win.high and win.cost == pytest.approx(0.1)
    assert win.consistency < 1  # every seventh verdict contradicts itself
    content = page_content([found], title="t", max_traces=0)
    first = content["docs"][0]
    assert first["i"] == "doc-00000" and [answer[1] for answer in first["a"]] == ["aad", "greedy"]
    assert first["v"][0]["w"][0][0] == "The answer shown first is better at greedy0-1"
    assert content["docs"][49]["v"][0]["r"] == "refused"


def test_verdicts_of_aad_judge_find_their_task(run, tmp_path):
    rows = samples_of(run)
    verdicts = [Verdict(str(i), prompt_hash(row["doc"]["prompt"]), "reward:x", p=0.75) for i, row in enumerate(rows)]
    figures = {
        **summarize(verdicts).to_json(),
        "candidate": "a/samples_planted.jsonl#greedy",
        "baseline": "other.jsonl",
    }
    write_results(run / "by_hand", verdicts, figures)
    found = read_run(str(run))
    by_hand = found.tasks["planted"].comparisons[-1]
    assert (by_hand.candidate, by_hand.rival, by_hand.judge) == ("greedy", "other", "reward:x")
    assert [win.rival for win in win_rates_of([found])] == ["greedy", "other"]


def test_opponents_keep_the_names_they_were_given(run):
    """Was: cut at the first dot, and a name of one's own was lost."""
    rows = samples_of(run)
    verdicts = [Verdict(str(i), prompt_hash(row["doc"]["prompt"]), "reward:x", p=0.75) for i, row in enumerate(rows)]
    given = {
        "base/gpt-4.1.json": "gpt-4.1",
        "claude=runs/b/model_outputs.json": "claude",
        "Llama-3.1-8B.jsonl.gz": "Llama-3.1-8B",
    }
    for number, baseline in enumerate(given):
        figures = {**summarize(verdicts).to_json(), "candidate": "samples_planted.jsonl#greedy", "baseline": baseline}
        write_results(run / f"by_hand_{number}", verdicts, figures)
    comparisons = read_run(str(run)).tasks["planted"].comparisons
    assert [one.rival for one in comparisons[1:]] == list(given.values())


def test_verdicts_on_a_picture_find_its_document(tmp_path):
    from aad_plugin.judges.sitting.pictures import marks_by
    from aad_plugin.texts.messages import shown_hash

    folder = tmp_path / "task" / "2026-11-20T10-00-00.000000"
    folder.mkdir(parents=True)
    row = {"id": "7", "prompt": "What is shown?", "outputs": {"aad": "A cat."}, "pictures": ["pictures/abc.png"]}
    (folder / "answers.jsonl").write_text(json.dumps(row) + "\n")
    verdict = Verdict("0", shown_hash(row["prompt"], marks_by(["abc"])), "hf:x", p=1.0, candidate_length=6)
    write_results(folder / "vs_greedy", [verdict], {**summarize([verdict]).to_json(), "candidate": "aad"})
    task = read_run(str(tmp_path)).tasks["task"]
    (comparison,) = task.comparisons
    assert comparison.by_document(task.documents) == {"7": [verdict]}


def test_results_of_several_models_in_one_run_are_said(tmp_path):
    for task, model in (("one", "zzz"), ("two", "aaa")):
        folder = write_run(tmp_path / "out" / model, texts(3, 20), task=task)
        (path,) = folder.glob("out/*/results_*")
        content = json.loads(path.read_text())
        content["model_name"] = model
        path.write_text(json.dumps(content))
    (problem,) = read_run(str(tmp_path / "out")).problems
    assert problem.startswith("2 models have results here (aaa (planted), zzz (planted))")


def test_arena_hards_score_is_a_figure_of_the_candidates(run):
    (path,) = run.glob("out/*/results_*")
    content = json.loads(path.read_text())
    content["results"]["planted"]["arena_score_vs_greedy,none"] = 0.7
    path.write_text(json.dumps(content))
    assert [
        (one.answer, one.value) for one in figures_of([read_run(str(run))]) if one.metric == "arena_score_vs_greedy"
    ] == [("aad", 0.7)]


@pytest.mark.parametrize("candidate", ["othermodel.jsonl", "other/samples_planted.jsonl#aad"])
def test_verdicts_of_aad_judge_on_another_models_answers_are_not_this_runs(run, candidate):
    rows = samples_of(run)
    verdicts = [
        Verdict(
            str(i), prompt_hash(row["doc"]["prompt"]), "reward:x", p=0.2, candidate_length=300 + i, baseline_length=9
        )
        for i, row in enumerate(rows)
    ]
    figures = {**summarize(verdicts).to_json(), "candidate": candidate, "baseline": "gpt4.jsonl"}
    write_results(run / "planted", verdicts, figures)
    found = read_run(str(run))
    assert [one.rival for one in found.tasks["planted"].comparisons] == ["greedy"]
    (kept,) = found.tasks[f"{run}/planted"].comparisons
    assert found.problems == [
        f"{run}/planted holds verdicts on other answers than this run's (of {kept.candidate!r}): shown without answers"
    ]


def test_verdicts_are_joined_by_length_where_no_name_says_whose_they_are():
    answers = {"aad": AnswerText(("a" * 7,)), "greedy": AnswerText(("<think>long</think>" + "b" * 9,))}
    documents = [Document(str(i), str(i), "p", str(i), answers=answers) for i in range(3)]

    def verdicts(length: int) -> list[Verdict]:
        return [Verdict(str(i), str(i), "reward:x", p=0.2, candidate_length=length) for i in range(3)]

    def named(name: str, length: int) -> str | None:
        return Comparison(name, "x", {}, verdicts(length)).answer_among(documents)

    assert named("samples_planted", 9) == named("greedy", 9) == "greedy"  # thinking is not counted
    assert named("aad", 9) is None and named("samples_planted", 8) is None
    assert named("candidate", 0) == "aad" and named("greedy", 0) == "greedy" and named("othermodel", 0) is None


def test_of_two_models_with_one_answer_in_common_each_gets_its_own_verdicts(tmp_path):
    mine, other = texts(40, 50, seed=1), texts(40, 50, seed=2)
    other[0] = mine[0]
    run = write_run(tmp_path / "run", mine, p_of=lambda rng, number: 0.9)
    later = write_run(tmp_path / "later", other, p_of=lambda rng, number: 0.1, stamp="2026-11-21T10-00-00.000000")
    shutil.copytree(later / "judged", run / "judged", dirs_exist_ok=True)
    found = read_run(str(run))
    assert [one.rate for one in win_rates_of([found])] == [pytest.approx(0.9, abs=0.05)]
    assert len(found.problems) == 1 and "was judged on other answers" in found.problems[0]


def test_a_task_that_scores_answers_itself_has_win_rates(run):
    (path,) = run.glob("out/*/results_*")
    results = json.loads(path.read_text())
    kept = {"vs_greedy": 0.4, "low_vs_greedy": 0.3, "high_vs_greedy": 0.5, "vs_greedy_stderr": 0.1}
    results["results"]["planted"] |= {f"score_win_rate_{name},none": value for name, value in kept.items()}
    path.write_text(json.dumps(results))
    found = read_run(str(run))
    win = win_rates_of([found])[-1]
    assert (win.candidate, win.rival, win.judge) == ("aad", "greedy", "the task's own score")
    assert (win.rate, win.low, win.high, win.approximate) == (0.4, 0.3, 0.5, False)
    assert len(win_rates_of([found])) == 2 and not [one for one in figures_of([found]) if "score" in one.metric]


def test_a_pointwise_judge_gives_figures(run):
    rows = samples_of(run)
    verdicts = [
        Verdict(str(i), prompt_hash(row["doc"]["prompt"]), "openai:g", label="comply") for i, row in enumerate(rows)
    ]
    write_results(run / "labels", verdicts, {**summarize(verdicts).to_json(), "candidate": "x#aad", "baseline": ""})
    found = read_run(str(run))
    shown = {(one.answer, one.metric): one.value for one in figures_of([found])}
    assert shown["aad", "comply by openai:g"] == 1.0
    assert len(win_rates_of([found])) == 1


def test_a_stock_lm_eval_run_is_shown_too(evaluate, checkpoints, tmp_path):
    """Loglikelihood and generation, in the format of the installed lm-eval."""
    from lm_eval.loggers import EvaluationTracker

    for task in ("toy_generate", "toy_choose"):
        results = evaluate("aad", {**checkpoints.model_args("two_models"), "trace": str(tmp_path / "trace")}, task)
        samples = results.pop("samples")
        tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
        tracker.general_config_tracker.model_name_sanitized = "toy"
        tracker.save_results_aggregated(results=results, samples=samples)
        tracker.save_results_samples(task_name=task, samples=samples[task])
    found = read_run(str(tmp_path))
    assert found.problems == [] and set(found.tasks) == {"toy_generate", "toy_choose"}
    content = page_content([found], title="t", max_traces=100)
    by_task = {task: [doc for doc in content["docs"] if doc["t"] == task] for task in found.tasks}
    assert len(by_task["toy_generate"]) == len(by_task["toy_choose"]) == 9
    assert {doc["a"][0][2].strip() for doc in by_task["toy_choose"]} <= {"yes", "not at all", "maybe"}
    assert all(doc["a"][0][4] >= 0 for doc in by_task["toy_generate"]) and content["traced"] == 9
    assert {row["metric"] for row in content["figures"]} == {"exact_match", "acc"}
    assert all(doc["m"][0][1] == "exact_match" for doc in by_task["toy_generate"])


def test_several_runs_share_their_documents(run, tmp_path):
    other = write_run(tmp_path / "other", texts(100, 80, seed=1), p_of=drawn)
    runs = read_runs([str(run), f"second={other}"])
    content = page_content(runs, title="t", max_traces=0)
    assert [one["name"] for one in content["runs"]] == ["run", "second"]
    assert len(content["docs"]) == 100 and [answer[0] for answer in content["docs"][0]["a"]] == [0, 0, 1, 1]
    assert [run.name for run in read_runs([str(run), str(run)])] == ["run (1)", "run (2)"]


def test_folders_that_lie_apart_are_one_run(run, tmp_path):
    shutil.move(run / "judged", tmp_path / "elsewhere")
    found = read_run(f"joined={run},{tmp_path / 'elsewhere'}")
    assert found.name == "joined" and len(found.tasks["planted"].comparisons) == 1


def test_the_newest_results_count(run):
    newer = write_run(run / "again", texts(5, 10), stamp="2026-11-21T10-00-00.000000")
    task = read_run(str(run)).tasks["planted"]
    assert len(task.documents) == 5 and task.date.startswith("2026-11-21") and newer


def test_a_task_with_a_dot_in_its_name_is_one_task(tmp_path):
    run = write_run(tmp_path / "run", texts(3, 10), task="mmlu_v1.5_x")
    found = read_run(str(run))
    assert {name: (len(task.documents), bool(task.metrics)) for name, task in found.tasks.items()} == {
        "mmlu_v1.5_x": (3, True)
    }
    undated = run / "samples_mine.jsonl"
    undated.write_text("")
    assert read_run(str(run)).problems == [
        f"{undated} is not named samples_<task>_<date>.jsonl, as lm-eval names them: left out"
    ]


def test_answers_to_pictures_are_read_with_their_verdicts(run):
    """Each line of answers.jsonl names the pictures it shows, and the verdicts on all of them had vanished."""
    (answers,) = run.rglob("answers.jsonl")
    rows = [json.loads(line) | {"pictures": ["pictures/a.png"]} for line in answers.read_text().splitlines()]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_run(str(run / "judged"))
    (task,) = found.tasks.values()
    assert not found.problems and len(task.documents) == 100
    assert win_rates_of([found])[0].n == 100
    assert len({document.cluster for document in task.documents.values()}) == 100


def test_verdicts_on_other_answers_are_left_out(run):
    write_run(run / "again", texts(100, 10, seed=5), stamp="2026-11-21T10-00-00.000000")
    found = read_run(str(run))
    assert found.tasks["planted"].comparisons == []
    assert found.problems == [
        f"{run}/judged/planted/2026-11-20T10-00-00.000000 was judged on other answers than the samples of planted: left out"
    ]


# ------------------------------------------------------------------ traces


def test_traces_are_found_by_answer(run):
    trace_for(run / "trace", samples_of(run))
    found = read_run(str(run))
    assert len(found.traced) == 100 and found.problems == []
    content = page_content([found], title="t", max_traces=10)
    assert (len(content["traces"]), content["traced"]) == (10, 100)
    shown = [doc for doc in content["docs"] if doc["a"][0][4] >= 0]
    assert len(shown) == 10 and all(doc["v"][0]["p"] < 0.5 for doc in shown)  # lost ones first
    steps = json.loads(content["traces"][shown[0]["a"][0][4]])
    assert "".join(step[0] for step in steps) == shown[0]["a"][0][2]


def test_traces_of_another_run_are_said(run, tmp_path):
    other = write_run(tmp_path / "other", texts(3, 80, seed=9))
    trace_for(run / "trace", samples_of(other))
    assert read_run(str(run)).problems == [
        f"{run}/trace holds traces of another run: none is about an answer of this one; left out"
    ]


# ------------------------------------------------------------------ what cannot be read


def test_a_torn_samples_line_is_named_and_the_rest_shown(run):
    (path,) = run.glob("out/*/samples_*")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], "[1]", '{"doc": {}}', *lines[6:-1], lines[-1][:50]]))
    found = read_run(str(run))
    assert len(found.tasks["planted"].documents) == 97
    assert found.problems[0] == f"{path}, line 5 must be an object, got list: left out"
    assert found.problems[1] == f"{path}, line 6 is no sample of lm-eval (KeyError: 'resps'): left out"
    assert found.problems[2].startswith(f"{path}, line 100 is not JSON (") and len(found.problems) == 3


def test_a_torn_verdict_file_is_named_and_figures_are_of_the_rest(run):
    (path,) = run.glob("judged/*/*/vs_greedy/verdicts.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:50], '{"id": 7}', lines[50][:20]]))
    found = read_run(str(run))
    (win,) = win_rates_of([found])
    assert win.n == 50 and not win.complete
    assert [problem.partition(" is ")[0] for problem in found.problems] == [f"{path}, line 51", f"{path}, line 52"]


def test_torn_results_and_summaries_are_named(run):
    (results,) = run.glob("out/*/results_*")
    results.write_text(results.read_text()[:100])
    (summary,) = run.glob("judged/*/*/*/summary.json")
    summary.write_text("{")
    found = read_run(str(run))
    assert len(found.problems) == 2 and f"{results} is no lm-eval results file" in found.problems[0]
    assert f"{summary} is not JSON" in found.problems[1] and win_rates_of([found])[0].n == 100
    assert {one.metric for one in figures_of([found])} == {"length", "truncated"}  # counted from the answers


def report(*arguments: str):
    return CliRunner().invoke(app(), ["report", *arguments])


def test_the_command_writes_the_page_and_says_what_was_left_out(run, tmp_path):
    (path,) = run.glob("out/*/samples_*")
    path.write_text(path.read_text()[:-40])
    done = report(str(run), "--output", str(tmp_path / "new" / "r.html"))
    assert done.exit_code == 0 and f"warning: run: {path}, line 100 is not JSON" in done.stderr
    assert (tmp_path / "new" / "r.html").read_text().count("<script>") == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "{tmp}/r.html"], "no run: give the folder of lm-eval's results or of a judged run"),
        (["{run}"], "nothing to write: pass --output report.html or --plots FOLDER"),
        (
            ["{tmp}/none", "--output", "{tmp}/r.html"],
            "no folder '{tmp}/none': a run is FOLDER or NAME=FOLDER[,FOLDER…]",
        ),
        (["{tmp}/empty", "--output", "{tmp}/r.html"], "no results in {tmp}/empty: expected lm-eval's results_*.json"),
        (["{run}", "--output", "{tmp}"], "cannot write {tmp}: it is a folder, expected a file; pass another file"),
        (["{run}", "--output", "/dev/null/r.html"], "cannot write /dev/null/r.html: File exists; pass another file"),
        (["{run}", "--plots", "/dev/null/plots"], "cannot write plots to /dev/null/plots: Not a directory"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    done = report(*(one.format(run=run, tmp=tmp_path) for one in arguments))
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith(message.format(tmp=tmp_path)) and "\n" not in str(done.exception)


# ------------------------------------------------------------------ the file


def test_nothing_in_the_data_ends_the_script_or_the_encoding(tmp_path):
    answers = [{"aad": text, "greedy": text[::-1]} for text in NASTY.values()]
    folder = write_run(tmp_path / "run", answers, prompts=[f"{name} {text}" for name, text in NASTY.items()])
    build_report(read_runs([str(folder)]), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_bytes().decode()  # UTF-8 throughout
    data = page.partition('id="data">')[2].partition("</script>")[0]
    assert "<" not in data and json.loads(data)["docs"][0]["a"][0][2] == NASTY["script"]
    assert [doc["a"][0][2] for doc in json.loads(data)["docs"]] == list(NASTY.values())


def test_numbers_that_json_lacks_become_null():
    assert script_json({"a": [math.nan, math.inf, 1.5]}) == '{"a":[null,null,1.5]}'


def test_ten_thousand_answers_of_a_thousand_characters_stay_below_thirty_megabytes(tmp_path):
    """One in ten of them: 1,000 answers below 3 MB and the libraries; the whole number is for the browser's test."""
    folder = write_run(tmp_path / "run", texts(500, 1000), p_of=drawn)
    build_report(read_runs([str(folder)]), tmp_path / "r.html")
    libraries = 1_100_000
    assert (tmp_path / "r.html").stat().st_size - libraries < (30_000_000 - libraries) / 10


def test_plots_are_svg_with_text_and_png(run, tmp_path):
    done = report(str(run), "--plots", str(tmp_path / "plots"))
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["win_rates.png", "win_rates.svg"]
    assert "aad vs greedy" in (tmp_path / "plots" / "win_rates.svg").read_text()
    assert (tmp_path / "plots" / "win_rates.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_plots_say_what_to_install(run, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = report(str(run), "--plots", str(tmp_path / "plots"))
    assert str(done.exception) == "plots need matplotlib: pip install 'aad_plugin[report]'"
