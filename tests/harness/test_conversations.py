"""Two turns, the second after the model's own first reply; and backends that are not ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from aad_plugin.errors import ConfigError
from aad_plugin.harness.registration import tasks_path
from aad_plugin.harness.turns import replies_of
from aad_plugin.judges.pairing import pair_rows
from aad_plugin.pair.model import load_pair
from aad_plugin.rivals.judged_rows import comparisons_of, write_answers
from aad_plugin.texts.answer_files import read_answers
from tests.tasks.upstream import write_upstream

TASK = "aad_mt_bench"
TURNS = [["Name a tree.", "Name another."], ["Count to three.", "And back again, please."]]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder = write_upstream(tmp_path_factory.mktemp("upstream"))
    rows = [{"question_id": 81 + i, "category": "writing", "turns": turns} for i, turns in enumerate(TURNS)]
    (folder / "mt_bench_question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(model: str, model_args: dict, data_dir: Path, task: str = TASK, metadata: dict | None = None, **options):
    import lm_eval

    given = {**model_args, "data_dir": str(data_dir), **(metadata or {})}
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=given)
    return lm_eval.simple_evaluate(
        model=model, model_args=model_args, tasks=[task], task_manager=manager, batch_size=4, device="cpu",
        log_samples=True, bootstrap_iters=0, gen_kwargs="max_gen_toks=12",
        **{"apply_chat_template": True, **options},
    )  # fmt: skip


def outputs(folder: Path, task: str = TASK) -> dict[str, dict]:
    newest = max(folder.glob(f"{task}/*/answers.jsonl"))
    return {row["id"]: row for row in map(json.loads, newest.read_text().splitlines())}


def test_the_second_reply_follows_the_first(checkpoints, data_dir, run_folder):
    from aad_plugin.pair.answering import answer

    args = checkpoints.model_args("two_models")
    results = run("aad", args, data_dir)
    pair = load_pair(**args)
    rows = outputs(run_folder)
    for number, (first, second) in enumerate(TURNS):
        one, two = rows[str(81 + number)]["outputs"]["greedy"]
        assert one == answer(pair, [first], strategy="greedy", max_new_tokens=12)[0]
        chat = [("user", first), ("assistant", one), ("user", second)]
        messages = [{"role": role, "content": text} for role, text in chat]
        assert two == answer(pair, [messages], strategy="greedy", max_new_tokens=12)[0]
    metrics = results["results"][TASK]
    assert metrics["truncated_aad,none"] == 1
    assert metrics["judged,none"] == 0 and not [name for name in metrics if name.startswith("win_rate")], (
        "no judge, no rates"
    )


def test_plain_text_where_no_chat_template_is_applied(checkpoints, data_dir, run_folder):
    from aad_plugin.pair.answering import answer

    args = checkpoints.model_args("two_models")
    run("aad", args, data_dir, apply_chat_template=False)
    one, two = outputs(run_folder)["81"]["outputs"]["aad"]
    text = f"{TURNS[0][0]}{one}\n\n{TURNS[0][1]}\n\n"
    assert two == answer(load_pair(**args), [text], chat=False, max_new_tokens=12)[0]


def test_another_backend_answers_the_turns_one_by_one_against_saved_answers(
    checkpoints, data_dir, run_folder, monkeypatch
):
    ours = run("aad", checkpoints.model_args("two_models"), data_dir)
    saved = max(run_folder.glob(f"{TASK}/*/answers.jsonl"))
    del ours
    monkeypatch.setenv("AAD_OUTPUT_DIR", str(run_folder / "hf"))
    hf = {"pretrained": str(checkpoints.policy)}
    first = run("hf", hf, data_dir, metadata={"baseline": f"{saved}#aad"})
    metrics = first["results"][TASK]
    assert {"judged,none", "length_model,none"} <= set(metrics)
    assert not any("turn2" in name or name.endswith("_greedy,none") for name in metrics)
    theirs = outputs(run_folder / "hf")["81"]["outputs"]
    mine = [json.loads(line) for line in saved.read_text().splitlines()]
    assert theirs["model"] == mine[0]["outputs"]["greedy"][0], "the policy alone, first turn"
    assert theirs["baseline"] == mine[0]["outputs"]["aad"][0]

    samples = run_folder / "first.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in first["samples"][TASK]))
    again = {"first_turn": str(samples), "baseline": f"{saved}#aad"}
    run("hf", hf, data_dir, "aad_mt_bench_turn2", metadata=again)
    second = outputs(run_folder / "hf", "aad_mt_bench_turn2")["81"]["outputs"]
    assert second["model"] == mine[0]["outputs"]["greedy"][1]
    assert second["baseline"] == mine[0]["outputs"]["aad"][1]


def test_a_later_turn_is_judged_in_each_sides_own_conversation():
    turns = [("user", "Name a city."), ("assistant", "Oslo"), ("user", "Why that one?")]
    row = {"id": "81", "prompt": [{"role": role, "content": text} for role, text in turns],
           "answers": {"model": ["The sea."], "baseline": ["It is sunny."]}}  # fmt: skip
    ((_, same),) = comparisons_of(row | {"earlier": {"baseline": ["Oslo"]}}, "model", "baseline")
    assert len(same.prompt) == 3 and same.baseline == "It is sunny."
    ((_, own),) = comparisons_of(row | {"earlier": {"baseline": ["Madrid"]}}, "model", "baseline")
    assert [turn["role"] for turn in own.prompt] == ["user", "user"]
    assert (own.candidate, own.baseline) == (("Oslo", "The sea."), ("Madrid", "It is sunny."))


def test_the_line_that_finishes_a_run_judges_the_same_conversations(tmp_path):
    turns = [("user", "Name a city."), ("assistant", "Oslo"), ("user", "Why that one?")]
    row = {"id": "81", "prompt": [{"role": role, "content": text} for role, text in turns],
           "answers": {"model": ["The sea."], "baseline": ["It is sunny."]}, "truncated": {},
           "earlier": {"baseline": ["Madrid"]}}  # fmt: skip
    ((_, within),) = comparisons_of(row, "model", "baseline")
    path = write_answers(tmp_path, [row])
    (after,) = pair_rows(read_answers(f"{path}#model"), read_answers(f"{path}#baseline"))
    assert (after.prompt, after.candidate, after.baseline) == (within.prompt, within.candidate, within.baseline)
    path.write_text(json.dumps({**json.loads(path.read_text()), "earlier": {"baseline": ["Madrid", "Rome"]}}))
    with pytest.raises(ConfigError, match=r"expected a list of 1 earlier replies, got \['Madrid', 'Rome'\]"):
        read_answers(f"{path}#baseline")
    path.write_text(json.dumps({"prompt": "hi", "output": "o", "earlier": "yes"}))
    assert read_answers(str(path))[0].text == "o"


def test_saved_answers_to_other_prompts_stop_the_run_before_it_starts(checkpoints, data_dir, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "Something else", "output": "x"}\n')
    with pytest.raises(ConfigError, match="has no answer to 2 of 2 prompts of this task"):
        run("hf", {"pretrained": str(checkpoints.policy)}, data_dir, metadata={"baseline": str(other)})
    with pytest.raises(ConfigError, match=r"holds neither samples_aad_mt_bench_<date>\.jsonl"):
        run("hf", {"pretrained": str(checkpoints.policy)}, data_dir, metadata={"baseline": str(tmp_path)})


def test_samples_of_conversations_are_read_turn_by_turn(checkpoints, data_dir, tmp_path):
    samples = tmp_path / "samples.jsonl"
    rows = run("aad", checkpoints.model_args("two_models"), data_dir)["samples"][TASK]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (first, _) = read_answers(f"{samples}#aad")
    assert [turn["content"] for turn in first.prompt] == TURNS[0]
    assert isinstance(first.text, tuple) and len(first.text) == 2


def test_replies_of():
    assert replies_of("[1]", 1) == ["[1]"]
    assert replies_of('["a", "b"]', 2) == ["a", "b"]
    assert replies_of("plain", 2) == ["plain", ""]


def test_a_pair_that_is_alive_does_not_make_another_model_ours(checkpoints, data_dir, run_folder):
    from aad_plugin.harness.model import AADLM

    alive = AADLM(**checkpoints.model_args("two_models"), device="cpu")
    metrics = run("hf", {"pretrained": str(checkpoints.policy)}, data_dir, apply_chat_template=False)["results"][TASK]
    assert "length_model,none" in metrics and alive is not None


def test_settings_of_a_loaded_pair_are_known_to_the_task(checkpoints, data_dir, run_folder):
    import lm_eval

    from aad_plugin.harness.model import AADLM

    manager = TaskManager(
        include_path=str(tasks_path()), include_defaults=False, metadata={"data_dir": str(data_dir), "rivals": []}
    )
    model = AADLM(**checkpoints.model_args("two_models"), alpha=0.3, device="cpu")
    results = lm_eval.simple_evaluate(
        model=model, tasks=["aad_xstest"], task_manager=manager, bootstrap_iters=0, gen_kwargs="max_gen_toks=4"
    )
    assert results["results"]["aad_xstest"]["truncated_aad,none"] == 1


def test_a_question_asked_twice_has_one_saved_answer(tmp_path):
    from aad_plugin.texts.saved_answers import read_baseline

    line = '{"prompt": "Is it?", "output": "Yes."}\n'
    (tmp_path / "saved.jsonl").write_text(line * 2)
    assert list(read_baseline(str(tmp_path / "saved.jsonl"), "t").values()) == [["Yes."]]
