"""A task whose documents are answered by every rival and judged in one run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from aad_plugin.errors import ConfigError
from aad_plugin.harness.registration import tasks_path
from aad_plugin.judges.sitting.store import Store
from aad_plugin.judges.statistics.results import read_verdicts
from aad_plugin.rivals.judged_run import JudgedRun
from aad_plugin.rivals.rival_task import RivalTask, is_degenerate
from tests.toys import PAD, VOCAB, byte_tokenizer

TASK = "aad_demo_dialogue"


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory) -> Path:
    return toy_reward_model(tmp_path_factory.mktemp("reward"))


def toy_reward_model(folder: Path) -> Path:
    torch.manual_seed(0)
    shape = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    config = LlamaConfig(**shape, num_key_value_heads=2, max_position_embeddings=1024, num_labels=1, pad_token_id=PAD)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def run(checkpoints, tmp_path, metadata=None, **options):
    import lm_eval
    from lm_eval.tasks import TaskManager

    args = checkpoints.model_args("two_models")
    given = {**args, "output_dir": str(tmp_path), **(metadata or {})}
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=given)
    return lm_eval.simple_evaluate(
        model="aad", model_args=args, tasks=[TASK], task_manager=manager, limit=6, batch_size=8, device="cpu",
        log_samples=True, apply_chat_template=True, **options,
    )  # fmt: skip


def rows(tmp_path) -> list[dict]:
    (file,) = tmp_path.glob(f"{TASK}/*/answers.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_judged_run(checkpoints, tmp_path, reward_model, monkeypatch):
    """Whichever figure is asked for first: they were NaN unless "judged" was."""
    process = RivalTask.process_results

    def judged_last(*given):
        values = process(*given)
        return {**{name: value for name, value in values.items() if name != "judged"}, "judged": values["judged"]}

    monkeypatch.setattr(RivalTask, "process_results", judged_last)
    results = run(checkpoints, tmp_path, {"judge": f"reward:{reward_model}"})
    metrics = results["results"][TASK]
    answers = rows(tmp_path)
    assert [row["id"] for row in answers] == [f"demo-{i:03}" for i in range(1, 7)]
    assert all(set(row["outputs"]) == {"aad", "greedy", "best_of_2"} for row in answers)
    for rival in ("greedy", "best_of_2"):
        assert 0 <= metrics[f"win_rate_vs_{rival},none"] <= 1
        assert metrics[f"win_rate_vs_{rival}_stderr,none"] > 0
        (summary,) = tmp_path.glob(f"{TASK}/*/vs_{rival}/summary.json")
        assert json.loads(summary.read_text())["win_rate"] == metrics[f"win_rate_vs_{rival},none"]
        verdicts = read_verdicts(summary.with_name("verdicts.jsonl"))
        assert [verdict.id for verdict in verdicts] == [row["id"] for row in answers]
        stored = Store.peek(summary.parent)
        for verdict in verdicts:
            assert all(stored.find(key) for key in verdict.rulings)
    for strategy in ("aad", "greedy", "best_of_2"):
        lengths = [len(row["outputs"][strategy]) for row in answers]
        assert metrics[f"length_{strategy},none"] == pytest.approx(sum(lengths) / 6)
        assert metrics[f"truncated_{strategy},none"] == sum(row["truncated"][strategy] for row in answers) / 6
        assert math.isfinite(metrics[f"reward_{strategy},none"])
        assert metrics[f"reward_{strategy}_stderr,none"] > 0
    assert metrics["judged,none"] == 1.0
    # What the gate needs: where it all is, and rewards per document.
    folder = Path(results["configs"][TASK]["metadata"]["judged_folder"])
    assert (folder / "answers.jsonl").samefile(next(tmp_path.glob(f"{TASK}/*/answers.jsonl")))
    scores = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert [row["id"] for row in scores] == [row["id"] for row in answers]
    assert sum(row["reward_aad"] for row in scores) / 6 == pytest.approx(metrics["reward_aad,none"])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"judge": "preset:gpt-4.1", "judge_template": "arena_hard"},
            r"log-probabilities give verdicts between A and B only, the template 'arena_hard' asks for A>>B, .*; choose "
            "another template or form",
        ),
        ({"judge": "preset:gpt-4.1", "graded": True}, "A and B only, the template 'grade' asks for 1, 2"),
        ({"judge": "hf:/nothing/here", "judge_template": "arena_hard"}, "A and B only, the template 'arena_hard'"),
        (
            {"judge": "hf:/nothing/here", "judge_template": "grade"},
            "task needs a pairwise judge, the template 'grade' is",
        ),
        ({"judge": "openai:m,form=letter"}, "form must be auto or one of"),
    ],
)
def test_a_judge_that_cannot_answer_is_refused_before_anything_is_answered(metadata, message):
    """It was told when all was decoded, of grades even when the comparisons were paid."""
    with pytest.raises(ConfigError, match=message):
        JudgedRun("task", metadata)


def test_judges_that_can_answer_are_not_refused():
    for spec in ("preset:gpt-4.1,form=auto", "openai:m", "hf:/nothing/here", "reward:/nothing/here"):
        JudgedRun("task", {"judge": spec, "judge_template": "dialogue", "graded": True})


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        (
            {"judge": "openai:m,template=dialogue", "judge_template": "moderation"},
            "--judge openai:m,template=dialogue --output",
        ),
        ({"judge": "openai:m", "judge_template": "dialogue"}, "--judge openai:m --template dialogue --output"),
        ({"judge": "alpaca_eval:x", "judge_template": "dialogue"}, "--judge alpaca_eval:x --output"),
        ({"judge_template": "dialogue"}, "--judge SPEC --template dialogue --output"),
        (
            {"judge": "openai:m,base_url=https://u:hunter22@h.example/v1"},
            "--judge 'openai:m,base_url=https://[secret]@h.example/v1' --output",
        ),
    ],
    ids=["own", "named", "none", "no-judge", "password"],
)
def test_the_line_that_finishes_asks_as_the_run_does(metadata, told, caplog, monkeypatch):
    monkeypatch.setattr("aad_plugin.judges.kinds.alpaca_eval._installed", lambda name: None)
    run = JudgedRun("task", metadata)
    run.answered_by(["aad", "greedy"], ["greedy"], 1)
    run._say_how_to_finish(Path("/some folder/answers.jsonl"), "why")
    both = [f"'/some folder/answers.jsonl#{name}'" for name in ("aad", "greedy")]
    line = "To finish: aad judge --candidate {} --baseline {}".format(*both)
    assert f"{line} {told} '/some folder/vs_greedy'" in caplog.text and "hunter22" not in caplog.text
    run.answered_by(["aad", "greedy"], ["greedy"], 2)  # was: judged as one conversation, whose last turn alone counts
    run._say_how_to_finish(Path("/some folder/answers.jsonl"), "why")
    assert f"{told.removesuffix('--output')}--protocol mt-bench-pairwise --output" in caplog.text


@pytest.mark.parametrize(("missing", "reported"), [(2, True), (3, False), (100, False)])
def test_a_mean_of_what_could_be_scored_is_reported_while_little_is_missing(missing, reported, caplog):
    """As of win rates: what is left of 100 answers when many have no grade says little of all of them."""
    run = JudgedRun("task", {}, judged=False)
    documents = [{"id": str(number)} for number in range(100)]
    run._mean("grade_aad", documents, [[] if number < missing else [5.0] for number in range(100)])
    value, error = run._figures["grade_aad"], run._figures["grade_aad_stderr"]
    assert (value, error) == (5.0, 0.0) if reported else math.isnan(value) and math.isnan(error)
    assert ("grade_aad is not reported" in caplog.text) is not reported


def test_answers_to_other_pictures_are_no_baseline(checkpoints, tmp_path):
    """They are found by their prompt's text, and three documents ask the same of three pictures."""
    task = object.__new__(RivalTask)
    task.answers = ["aad"]
    task._config = SimpleNamespace(doc_to_image="image", task="t")
    docs = [{"id": str(number), "prompt": "Describe this image."} for number in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RivalTask, "eval_docs", docs)
        with pytest.raises(ConfigError, match="3 documents of t share 1 texts over other pictures"):
            task._refuse_pictures_of_one_prompt()
        patch.setattr(RivalTask, "eval_docs", docs[:1])
        task._refuse_pictures_of_one_prompt()


def test_a_judge_outside_its_limits_is_said(checkpoints, tmp_path, reward_model, caplog, monkeypatch):
    from aad_plugin.judges.statistics import limits

    monkeypatch.setattr(limits, "outside", lambda verdicts, own: [f"{len(verdicts)} items disagree"])
    run(checkpoints, tmp_path, {"judge": f"reward:{reward_model}", "rivals": ["greedy"]})
    assert f"{TASK}, aad against greedy: 6 items disagree; such verdicts say little" in caplog.text


def test_without_a_judge_nothing_is_spent_and_the_line_that_finishes_is_printed(checkpoints, tmp_path, caplog):
    metrics = run(checkpoints, tmp_path)["results"][TASK]
    assert len(rows(tmp_path)) == 6
    # It printed a row of NaN for every win rate and grade.
    assert not any(isinstance(value, float) and math.isnan(value) for value in metrics.values())
    assert metrics["judged,none"] == 0 and not any(name.startswith("win_rate") for name in metrics)
    assert "To finish: aad judge --candidate" in caplog.text


def test_rivals_are_chosen_by_metadata(checkpoints, tmp_path, reward_model):
    metrics = run(checkpoints, tmp_path, {"rivals": ["eft", "best_of_3"], "judge": f"reward:{reward_model}"})[
        "results"
    ][TASK]
    assert {"win_rate_vs_eft,none", "win_rate_vs_best_of_3,none"} <= set(metrics)
    assert "win_rate_vs_greedy,none" not in metrics


def test_predict_only_judges_nothing(checkpoints, tmp_path, caplog):
    results = run(checkpoints, tmp_path, {"judge": "reward:/nowhere"}, predict_only=True)
    assert len(results["samples"][TASK]) == 6
    assert len(rows(tmp_path)) == 6 and "aad judge --candidate" in caplog.text
    assert not list(tmp_path.glob("**/vs_*"))


@pytest.mark.parametrize(
    ("rivals", "message"),
    [(["gredy"], "did you mean 'greedy'"), (["aad"], "got 'aad' itself"), (["greedy", "greedy"], "rivals must differ")],
)
def test_bad_rivals(checkpoints, tmp_path, rivals, message):
    with pytest.raises(ConfigError, match=message):
        run(checkpoints, tmp_path, {"rivals": rivals})


def test_a_judge_that_is_not_there_costs_neither_the_answers_nor_the_run(checkpoints, tmp_path, caplog):
    metrics = run(checkpoints, tmp_path, {"judge": "reward:/nowhere"})["results"][TASK]
    assert len(rows(tmp_path)) == 6
    assert math.isnan(metrics["win_rate_vs_greedy,none"])
    assert "cannot load the reward model '/nowhere'" in caplog.text


def test_a_judge_without_a_kind_fails_before_anything_is_answered(checkpoints, tmp_path):
    with pytest.raises(ConfigError, match="a judge is named kind:name"):
        run(checkpoints, tmp_path, {"judge": "gpt-4"})
    assert not list(tmp_path.iterdir())


def test_degenerate_means_a_four_gram_more_than_three_times():
    assert is_degenerate("a b c d " * 4)
    assert not is_degenerate("a b c d " * 3)
    assert not is_degenerate("one two three")


def test_demo_prompts_are_many_and_distinct():
    lines = [json.loads(line) for line in (tasks_path() / "demo/dialogue/prompts.jsonl").read_text().splitlines()]
    assert len(lines) >= 100
    assert len({line["prompt"] for line in lines}) == len({line["id"] for line in lines}) == len(lines)
