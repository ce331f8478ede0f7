"""Every task file through the harness's own TaskManager, on rows in upstream's format."""

from __future__ import annotations

import json
import logging
import math

import pytest
from lm_eval.tasks import TaskManager

from aad_plugin.errors import ConfigError
from aad_plugin.harness.own_tasks import our_tasks_alone
from aad_plugin.harness.registration import tasks_path
from aad_plugin.rivals.catalogue import entries
from tests.tasks.upstream import write_upstream

NAMES = [entry.name for entry in entries() if entry.name != "aad_mt_bench_turn2"]
REFUSAL = "I'm sorry, but I can't help with that."
GOLD = {
    "categorization": lambda doc: f"Category: {doc['label']}\nBecause it says so.",
    "moderation": lambda doc: f"Categories: {doc['target']}\nBecause it says so.",
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_upstream(tmp_path_factory.mktemp("upstream"))


def load(name: str, **metadata):
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)
    return manager.load([name])["tasks"]


def one(name: str, data_dir, **metadata):
    return load(name, data_dir=str(data_dir), **metadata)[name]


def score(task, answer, name: str = "aad") -> dict[str, float]:
    """Metrics of a run in which every document gets answer(doc) from every strategy."""
    values: dict[str, list] = {}
    task._contexts = {str(doc["id"]): [("?", {"strategy": s}) for s in task.answers] for doc in task.eval_docs}
    for doc in task.eval_docs:
        for metric, value in task.process_results(doc, [answer(doc)] * len(task.answers)).items():
            values.setdefault(metric, []).append(value)
    return {metric: fn(values[metric]) for metric, fn in task.aggregation().items() if metric.endswith(name)}


@pytest.mark.parametrize("name", NAMES)
def test_a_document_is_rendered_and_its_answer_not_cut(name, data_dir):
    task = one(name, data_dir)
    doc = task.eval_docs[0]
    asked = doc["prompt"] if isinstance(doc["prompt"], str) else doc["prompt"][-1]["content"]
    plain = task.fewshot_context(doc, 0)
    assert asked in plain
    chats = []
    task.fewshot_context(doc, 0, apply_chat_template=True, chat_template=lambda turns, **_: chats.append(turns) or "x")
    assert chats[0][-1]["role"] == "user" and asked in chats[0][-1]["content"]
    settings = task.config.generation_kwargs
    assert settings["until"] == [] and settings["do_sample"] is False and settings["max_gen_toks"] >= 64
    assert "temperature" not in settings


def test_lm_evals_cache_of_requests_is_refused(data_dir):
    """It finds requests by the task's name: another call's strategies would answer under the names of this one's."""
    task = one("aad_demo_dialogue", data_dir)
    with pytest.raises(ConfigError, match="--cache_requests keeps the requests of aad_demo_dialogue by its name alone"):
        task.build_all_requests(limit=1, rank=0, world_size=1, cache_requests=True)


def test_the_groups_hold_every_task():
    logging.disable(logging.WARNING)
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
    logging.disable(logging.NOTSET)
    for group in (
        "aad_bench",
        "aad_demo",
        "aad_pope",
        "aad_categorization",
        "aad_moderation",
        "aad_dialogue",
        "aad_preference",
    ):
        assert group in manager.all_groups
    own = {name for name in manager.all_subtasks}
    assert own == {*NAMES, "aad_mt_bench_turn2"}
    with our_tasks_alone():  # lm-eval's own take a minute to list
        stock = set(TaskManager(include_path=None).all_tasks)
    assert sum(name in stock for name in own) in (0, len(own)), "all ours where the plugin is active, none where not"


@pytest.mark.parametrize("name", [e.name for e in entries() if e.kind == "categorization"])
def test_gold_categories_score_one_and_wrong_ones_zero(name, data_dir):
    task = one(name, data_dir)
    gold = score(task, GOLD["categorization"])
    assert (gold["accuracy_aad"], gold["macro_f1_aad"], gold["unparsed_aad"]) == (1, 1, 0)
    labels = task.config.metadata["labels"]
    other = score(task, lambda doc: f"Category: {labels[labels.index(doc['label']) - 1]}")
    assert (other["accuracy_aad"], other["macro_f1_aad"], other["unparsed_aad"]) == (0, 0, 0)
    prose = score(task, lambda doc: f"I would say it is about {doc['label']}.")
    assert (prose["accuracy_aad"], prose["unparsed_aad"]) == (0, 1)


@pytest.mark.parametrize("name", ["aad_openai_moderation", "aad_toxic_chat", "aad_demo_moderation"])
def test_gold_flags_score_one_and_wrong_ones_zero(name, data_dir):
    task = one(name, data_dir)
    gold = score(task, GOLD["moderation"])
    assert (gold["f1_flagged_aad"], gold["unparsed_aad"]) == (1, 0)
    silent = score(task, lambda doc: "Categories: none")
    assert silent["recall_flagged_aad"] == 0 and math.isnan(silent["precision_flagged_aad"])
    unread = score(task, lambda doc: "Categories: something else")
    assert unread["unparsed_aad"] == 1 and unread["recall_flagged_aad"] == 0


def test_compliance_and_refusal_come_as_a_pair(data_dir):
    task = one("aad_xstest", data_dir)
    never = score(task, lambda doc: "Sure. First open a terminal, then type the command and press enter.")
    assert (never["compliance_safe_aad"], never["refusal_unsafe_aad"]) == (1, 0)
    always = score(task, lambda doc: REFUSAL)
    assert (always["compliance_safe_aad"], always["refusal_unsafe_aad"]) == (0, 1)


def test_shares_of_answers_that_could_hardly_be_read_are_not_reported(data_dir, caplog):
    task = one("aad_xstest", data_dir)
    figures = task.aggregation()
    read, unread, other = 1.0, math.nan, None
    for name in ("compliance_safe_aad", "compliance_safe_aad_stderr"):
        assert not math.isnan(figures[name]([read] * 49 + [0.0] + [unread] + [other] * 9))
        assert math.isnan(figures[name]([read] * 48 + [unread] * 2 + [other] * 9))
    assert figures["compliance_safe_aad"]([read, 0.0, other]) == 0.5
    assert "2 of 50 answers could not be read as compliance or refusal" in caplog.text
    german = score(
        task, lambda doc: "Das kann ich Ihnen leider nicht erklären, weil es verboten ist und Menschen schadet."
    )
    assert math.isnan(german["compliance_safe_aad"]) and math.isnan(german["refusal_unsafe_aad"])


def test_unknown_flags_are_left_out(data_dir):
    # One document's H2 is unknown, the other's is 0: nothing to find, so recall is undefined, not zero.
    assert math.isnan(score(one("aad_openai_moderation", data_dir), GOLD["moderation"])["recall_H2_aad"])


def test_few_shot_examples_come_from_the_training_file(data_dir):
    task = one("aad_banking77", data_dir)
    task.set_fewshot_seed(1)
    text = task.fewshot_context(task.eval_docs[0], 2)
    assert text.count("Is my card on its way?") == 2 and text.count("Category: card_arrival\n\n") == 2


@pytest.mark.parametrize("name", ["aad_demo_categorization", "aad_demo_moderation"])
def test_few_shot_examples_from_the_documents_leave_the_asked_one_out(name):
    task = load(name)[name]
    task.set_fewshot_seed(1)
    texts = [(doc, task.fewshot_context(doc, 8)) for doc in task.eval_docs]
    assert all(text.count(task.doc_to_text(doc)) == 1 for doc, text in texts)


def test_dialogues_have_no_answers_to_show(data_dir):
    task = one("aad_hh_harmless", data_dir)
    with pytest.raises(ConfigError, match="num_fewshot must be 0"):
        task.fewshot_context(task.eval_docs[0], 1)


def test_published_answers_are_opponents(data_dir):
    assert one("aad_arena_hard_v2", data_dir).run.opponents == ["greedy", "best_of_2", "published"]
    assert one("aad_arena_hard_v0_1", data_dir).run.opponents == ["greedy", "best_of_2"], (
        "no file of that baseline here"
    )
    assert "win_rate_vs_published" in one("aad_alpaca_eval", data_dir, judge="openai:judge").aggregation()


def test_a_prompt_of_arena_hard_is_held_against_the_baseline_of_its_category(tmp_path):
    def write(name: str, rows: list[dict]) -> None:
        path = tmp_path / "arena-hard-v2.0" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answers(text: str) -> list[dict]:
        return [{"uid": uid, "messages": [{"role": "assistant", "content": {"answer": text + uid}}]} for uid in "hc"]

    asked = [("h", "hard_prompt"), ("c", "creative_writing")]
    write("question.jsonl", [{"uid": uid, "category": category, "prompt": uid} for uid, category in asked])
    write("model_answer/o3-mini-2025-01-31.jsonl", answers("o3 "))
    with pytest.raises(
        ConfigError, match=r"no answer of gemini-2.0-flash-001, the baseline of creative_writing prompts, to c"
    ):
        one("aad_arena_hard_v2", tmp_path)
    write("model_answer/gemini-2.0-flash-001.jsonl", answers("gemini "))
    docs = one("aad_arena_hard_v2", tmp_path).eval_docs
    assert {doc["id"]: doc["published"] for doc in docs} == {"h": "o3 h", "c": "gemini c"}


def test_each_turn_has_a_win_rate_where_a_judge_is_named(data_dir):
    named = set(one("aad_mt_bench", data_dir, judge="openai:judge").aggregation())
    assert {"win_rate_turn1_vs_greedy", "win_rate_turn2_vs_greedy"} <= named
    assert not [name for name in one("aad_mt_bench", data_dir).aggregation() if name.startswith("win_rate")]


def test_rivals_none(data_dir):
    task = one("aad_xstest", data_dir, rivals=[])
    assert task.answers == ["aad"] and not any(name.startswith("win_rate") for name in task.aggregation())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "looked for banking77_test.csv or test.csv or test.jsonl in"),
        ({"banking77_test.csv": "text,intent\nx,y\n"}, "row 1 is not what this task reads: column 'label_text'"),
        ({"banking77_test.csv": "text,category\nx,nonsense\n"}, "a label of the 77 known ones"),
        ({"banking77_test.csv": "text,category\n"}, "holds no row that this task can use"),
        ({"test.jsonl": "{broken\n"}, "line 1 is not JSON"),
    ],
)
def test_bad_local_files(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load("aad_banking77", data_dir=str(tmp_path))


@pytest.mark.parametrize("label", ["4", "-1"])
def test_a_topic_out_of_range_is_one_line(tmp_path, label):
    (tmp_path / "ag_news_test.csv").write_text(f"text,label\nx,{label}\n")
    with pytest.raises(ConfigError, match=rf"a label from 0 to 3, or its name \(got '{label}'\)"):
        load("aad_ag_news", data_dir=str(tmp_path))


def test_a_data_dir_that_is_none_and_no_network(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"is not a folder; expected one that holds banking77_test\.csv"):
        load("aad_banking77", data_dir=str(tmp_path / "nowhere"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"cannot fetch .* of the dataset mteb/banking77"):
        load("aad_banking77")


def test_the_second_turn_needs_the_first(data_dir, tmp_path):
    with pytest.raises(ConfigError, match="run aad_mt_bench with --log_samples first"):
        load("aad_mt_bench_turn2", data_dir=str(data_dir))
    first = tmp_path / "first.jsonl"
    first.write_text('{"prompt": "Write a haiku.", "output": "<think>frogs?</think>Frogs jump."}\n')
    task = one("aad_mt_bench_turn2", data_dir, first_turn=str(first))
    assert [turn["content"] for turn in task.eval_docs[0]["prompt"]] == [
        "Write a haiku.",
        "Frogs jump.",
        "Another one.",
    ]
