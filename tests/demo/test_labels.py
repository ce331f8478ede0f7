"""The label pairs of the demo pair's training: no text of the demo tasks, right answers that the tasks can read."""

from __future__ import annotations

import itertools
import json

import pytest

from aad_plugin.demo.assets import base_model_path
from aad_plugin.demo.training_prompts import trained_prompts
from aad_plugin.harness.registration import tasks_path
from aad_plugin.rivals.label_reading import one_label, set_of_labels
from experiments.demo_pair import training
from experiments.demo_pair.labels import GROUPS, build_label_pairs, load_examples
from experiments.demo_pair.pairs import longer_wins
from experiments.demo_pair.prompts import SPLITS
from experiments.demo_pair.shipped import PROMPTS, shipped_pairs, write_prompts
from tests.demo.test_assets import _overlap


def _demo_texts() -> list[str]:
    files = [tasks_path() / "demo" / f"{name}.jsonl" for name in ("categorization", "moderation")]
    return [json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def test_no_text_is_near_one_of_the_demo_tasks():
    written = [example.text for split in SPLITS for example in load_examples(split)]
    assert [(a, b) for a in _demo_texts() for b in written if _overlap(a, b) >= 0.5] == []


def test_policy_and_reward_model_share_no_text():
    policy, reward = ([example.text for example in load_examples(split)] for split in SPLITS)
    assert [(a, b) for a in policy for b in reward if _overlap(a, b) >= 0.5] == []
    for texts in (policy, reward):
        assert [(a, b) for a, b in itertools.combinations(texts, 2) if _overlap(a, b) > 0.6] == []


@pytest.mark.parametrize("split", SPLITS)
def test_examples_are_many_and_some_are_held_out(split):
    examples = load_examples(split)
    assert len({e.id for e in examples}) == len({e.text for e in examples}) == len(examples) >= 120
    assert sum(e.held_out for e in examples) == round(0.15 * len(examples))
    assert all(set(e.right) <= set(e.menu) and (e.right or e.form == "flags") for e in examples)


@pytest.mark.parametrize("split", SPLITS)
def test_the_tasks_read_the_right_answer_and_never_the_wrong_one(split):
    examples = {example.id: example for example in load_examples(split)}
    for pair in build_label_pairs(split, lambda text: len(text.split())):
        example = examples[pair.prompt_id]
        assert pair.held_out == example.held_out and pair.prompt == example.prompt
        if example.form == "category":
            read = [one_label(text, "Category", list(example.menu)) for text in (pair.chosen, pair.rejected)]
            right = example.right[0]
        else:
            read = [set_of_labels(text, "Categories", list(example.menu)) for text in (pair.chosen, pair.rejected)]
            right = {label: int(label in example.right) for label in example.menu}
        assert read[0] == right != read[1]
        assert (read[1] is None) == pair.kind.endswith("_form")


@pytest.mark.parametrize("split", SPLITS)
def test_shipped_pairs_are_of_all_kinds_and_length_does_not_tell_their_sides_apart(split):
    pairs = [pair for pair in shipped_pairs("demo", split) if pair.kind in GROUPS]
    for kind in GROUPS:
        mine = [pair for pair in pairs if pair.kind == kind]
        assert 0.45 <= longer_wins(mine) <= 0.55 or len(mine) <= 10
    assert len({pair.kind for pair in pairs}) == 4
    assert {pair.prompt for pair in pairs} <= {example.prompt for example in load_examples(split)}
    assert set(trained_prompts("demo@1", split)) < set(trained_prompts("demo", split))
    assert not set(trained_prompts("demo", "policy")) & set(trained_prompts("demo", "reward"))


def test_the_package_lists_the_prompts_of_the_shipped_pairs(tmp_path):
    write_prompts(tmp_path / "prompts.json")
    assert (tmp_path / "prompts.json").read_bytes() == PROMPTS.read_bytes()
    for held_out in (True, False):
        wanted = {pair.prompt for pair in shipped_pairs("demo", "policy") if held_out or not pair.held_out}
        assert set(trained_prompts("demo", "policy", held_out=held_out)) == wanted


def test_the_policy_learns_no_end_where_a_text_was_cut_and_dialogue_outweighs_labels(tmp_path):
    from transformers import AutoTokenizer

    pairs = shipped_pairs("demo", "policy")
    training.write_sets(training.mostly_dialogue(pairs), tmp_path / "policy", mark_cut=True)
    rows = [json.loads(line) for line in (tmp_path / "policy" / "train.jsonl").read_text().splitlines()]
    ended = {(p.prompt, p.chosen): p.chosen_ended for p in pairs}
    tokenizer = AutoTokenizer.from_pretrained(training.open_base(base_model_path(), tmp_path / "base"))
    seen = set()
    for row in rows:
        text = tokenizer.apply_chat_template(row["prompt"] + row["chosen"], tokenize=False)
        start = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        closed = text.endswith("<|im_end|>\n")
        answer = text.removeprefix(start).removesuffix("<|im_end|>\n")
        assert closed is ended[row["prompt"][0]["content"], answer]
        seen.add(closed)
    assert seen == {True, False}
    labels = {p.prompt for p in pairs if p.kind in GROUPS}
    assert (
        sum(row["prompt"][0]["content"] in labels for row in rows)
        == sum(training.LABEL_PAIRS.values())
        < 0.65 * len(rows)
    )
    held_out = (tmp_path / "policy_held_out.jsonl").read_text()
    assert training.CUT not in held_out and len(held_out.splitlines()) == sum(p.held_out for p in pairs)
