"""One folder holds a run: lm-eval's --output_path, below it the pair's name, in it results, answers and verdicts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.harness import output_folder
from aad_plugin.harness.registration import register_all, tasks_path
from aad_plugin.report.runs import read_run
from aad_plugin.rivals.judged_run import JudgedRun
from aad_plugin.texts.saved_answers import read_baseline

TASK = "aad_demo_dialogue"


def tracker(path, model="aad", **model_args):
    from lm_eval.loggers import EvaluationTracker

    register_all()
    found = EvaluationTracker(output_path=path and str(path))
    found.general_config_tracker.log_experiment_args(
        model_source=model,
        model_args=model_args,
        system_instruction=None,
        chat_template=None,
        fewshot_as_multiturn=False,
    )
    return found


@pytest.fixture(autouse=True)
def forgotten():
    yield
    output_folder.forget()


@pytest.mark.parametrize(
    ("model_args", "name"),
    [
        ({"pair": "demo"}, "demo"),
        ({"pretrained": "demo"}, "demo"),
        ({"policy": "org/tuned", "reference": "org/base"}, "org__tuned"),
        ({"reference": "org/base", "adapter": "org/lora"}, "org__lora"),
    ],
)
def test_a_pair_names_its_folder(tmp_path, model_args, name):
    found = tracker(tmp_path / "out", **model_args)
    assert found.general_config_tracker.model_name_sanitized == name
    assert output_folder.run_folder() == tmp_path / "out" / name


def test_other_models_keep_lm_evals_name(tmp_path):
    found = tracker(tmp_path, "hf", pretrained="org/model", pair="x")
    assert found.general_config_tracker.model_name == "org/model"
    assert tracker(tmp_path, "hf", pair="x").general_config_tracker.model_name != "x"


def test_a_results_file_has_its_folder_and_no_path_has_none(tmp_path):
    tracker(tmp_path / "out" / "figures.json", pair="demo")
    assert output_folder.run_folder() == tmp_path / "out"
    tracker(None, pair="demo")
    assert output_folder.run_folder() is None


def test_what_is_named_comes_before_the_output_path_and_that_before_the_environment(tmp_path, run_folder):
    assert JudgedRun("t", {})._folder().parent == run_folder / "t"
    tracker(tmp_path / "out", pair="demo")
    assert JudgedRun("t", {})._folder().parent == tmp_path / "out" / "demo" / "t"
    assert JudgedRun("t", {"output_dir": str(tmp_path)})._folder().parent == tmp_path / "t"


@pytest.fixture(scope="module")
def out(checkpoints, tmp_path_factory) -> Path:
    """A whole run, judged by a toy, with traces elsewhere."""
    import lm_eval
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    from tests.harness.test_rivals import toy_reward_model

    register_all()
    root = tmp_path_factory.mktemp("run")
    judge = {"judge": f"reward:{toy_reward_model(root / 'reward')}", "rivals": ["greedy"]}
    args = {**checkpoints.model_args("two_models"), "trace": str(root / "traces"), "answers_dir": "none"}
    track = EvaluationTracker(output_path=str(root / "out"))
    results = lm_eval.simple_evaluate(
        model="aad", model_args=args, tasks=[TASK], limit=3, batch_size=8, device="cpu", log_samples=True,
        apply_chat_template=True, evaluation_tracker=track, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata={**args, **judge}),
    )  # fmt: skip
    samples = results.pop("samples")
    track.save_results_aggregated(results=results, samples=samples)
    track.save_results_samples(task_name=TASK, samples=samples[TASK])
    return root / "out"


def test_a_report_needs_the_output_path_alone(out):
    (home,) = out.iterdir()
    run = read_run(str(out))
    task = run.tasks[TASK]
    assert not run.problems
    assert task.judged_folder is not None and task.judged_folder.parent == (home / TASK).resolve()
    assert [one.rival for one in task.comparisons] == ["greedy"]
    assert {name for _, _, name in run.traced} == {"aad", "greedy"}


def test_the_demo_shows_such_a_run_and_makes_its_page(out, capsys):
    from aad_plugin.demo.__main__ import QUESTION, show

    (answers,) = out.rglob(f"{TASK}/*/answers.jsonl")
    show([answers.parent])
    shown = capsys.readouterr().out
    assert "Win rates" in shown and len(re.findall("┃ aad +┃ greedy +┃", shown)) == 3
    assert (answers.parent / "report.html").is_file() and str(answers.parent / "report.html") in shown
    assert shown.splitlines()[-1].endswith(f'generate "{QUESTION}" --pair demo --strategies aad,greedy')
    (answers.parent / "report.html").unlink()


def test_samples_carry_what_the_judge_found(out):
    (file,) = out.rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    (judged,) = out.rglob("scores.jsonl")
    scores = {row["id"]: row for row in map(json.loads, judged.read_text().splitlines())}
    verdicts = [json.loads(line) for line in (judged.parent / "vs_greedy" / "verdicts.jsonl").read_text().splitlines()]
    rates = {row["id"]: row["p"] for row in verdicts}
    assert len(rows) == 3
    for row in rows:
        own = row["doc"]["id"]
        assert row["reward_aad"] == scores[own]["reward_aad"] and row["reward_greedy"] == scores[own]["reward_greedy"]
        assert row["win_rate_vs_greedy"] == rates[own]
        assert "reward_aad_stderr" not in row and set(row["metrics"]) <= set(row)
        assert own not in [value for name, value in row.items() if name != "doc"]


def test_the_baseline_may_be_any_folder_of_the_run(out, monkeypatch):
    (answers,) = out.rglob("answers.jsonl")
    for folder in (out, answers.parent.parent, answers.parent):
        assert len(read_baseline(f"{folder}#aad", TASK)) == 3
    monkeypatch.chdir(answers.parent)
    assert len(read_baseline(".#aad", TASK)) == 3
    with pytest.raises(ConfigError, match="holds neither"):
        read_baseline(f"{answers.parent}#aad", "aad_xstest")
