"""POPE and AMBER: upstream's rules against hand-worked cases, rows in upstream's formats, and what is missing."""

from __future__ import annotations

import json
import math
import re

import pytest
from PIL import Image

from aad_plugin.errors import BackendMissing, ConfigError
from aad_plugin.rivals.amber import Described, amber_score, describe, description_figures, question_figures
from aad_plugin.rivals.hallucination_tasks import pope_figures, read_pope, read_yes_no
from tests.tasks.test_tasks import one, score
from tests.tasks.upstream import AMBER, write_upstream

SETTINGS = ("aad_pope_random", "aad_pope_popular", "aad_pope_adversarial")


class ByTable:
    """Nouns are the words that end in a table; two words are as near as the table says."""

    def __init__(self, near: dict[frozenset[str], float] | None = None) -> None:
        self.near = near or {}

    def nouns(self, text: str) -> list[str]:
        return [word.removesuffix("s") for word in re.findall("[a-z]+", text)]

    def similarity(self, one: str, other: str) -> float:
        return 1.0 if one == other else self.near.get(frozenset((one, other)), 0.0)


@pytest.fixture
def data_dir(tmp_path):
    folder = write_upstream(tmp_path / "upstream")
    (folder / "images").mkdir()
    Image.new("RGB", (20, 10), "red").save(folder / "images" / "one.png")
    return folder


# ------------------------------------------------------------------------------------------------ POPE


@pytest.mark.parametrize(("answer", "said"), [
    ("Yes", "yes"), ("No", "no"), ("no", "no"), ("Yes, there is a dog.", "yes"), ("No, there is no dog.", "no"),
    ("There is not a dog in the image.", "no"),
    ("A dog is there. No cat is.", "yes"),  # only the first sentence counts
    ("NO", "yes"), ("Nothing", "yes"), ("no!", "yes"),  # upstream compares whole words, letter by letter
    ("", "yes"), ("I cannot tell", "yes"),
])  # fmt: skip
def test_pope_reads_as_upstream(answer, said):
    assert read_pope(answer) == said


def test_pope_by_hand():
    # 5 questions: TP 2, FP 1, TN 1, FN 1.
    pairs = [("yes", "yes"), ("yes", "yes"), ("no", "yes"), ("no", "no"), ("yes", "no")]
    found = pope_figures(pairs)
    assert found == pytest.approx(
        {"accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 3 / 5}
    )
    never = pope_figures([("yes", "no"), ("no", "no")])
    assert math.isnan(never["precision"]) and never["recall"] == 0 and never["yes_ratio"] == 0


@pytest.mark.parametrize("name", SETTINGS)
def test_pope_scores_gold_as_one(name, data_dir):
    task = one(name, data_dir)
    gold = score(task, lambda doc: doc["label"].capitalize())
    assert [gold[f"{m}_aad"] for m in ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed")] == [
        1, 1, 1, 1, 0.5, 0,
    ]  # fmt: skip
    always = score(task, lambda doc: "yes")
    assert (always["accuracy_aad"], always["recall_aad"], always["yes_ratio_aad"]) == (0.5, 1, 1)
    assert score(task, lambda doc: "A red thing.")["unparsed_aad"] == 1
    assert task.rivals == ["greedy", "best_of_2", "vcd"]


def test_popes_own_file_holds_lines_and_is_called_json(data_dir):
    (data_dir / "coco_pope_random.jsonl").rename(data_dir / "coco_pope_random.json")
    assert [doc["id"] for doc in one("aad_pope_random", data_dir).eval_docs] == ["1", "2"]


def test_each_request_shows_its_picture(data_dir):
    task = one("aad_pope_random", data_dir)
    task._answered_by(["aad", "vcd"])
    doc = task.eval_docs[0]
    requests = task.construct_requests(doc, task.fewshot_context(doc, 0))
    assert [request.args[1]["strategy"] for request in requests] == ["aad", "vcd"]
    for request in requests:
        assert request.args[0] == "<image>Is there a dog in the image?"
        assert request.args[2]["visual"][0].size == (20, 10)


# ------------------------------------------------------------------------------------------------ what is missing


@pytest.mark.parametrize(("gone", "name", "said"), [
    ("coco_pope_random.jsonl", "aad_pope_random", "take it from github.com/AoiDragon/POPE, output/coco"),
    ("query_all.json", "aad_amber", "take it from github.com/junyangwang0410/AMBER, data"),
    ("annotations.json", "aad_amber_discriminative", "take it from github.com/junyangwang0410/AMBER, data"),
])  # fmt: skip
def test_a_missing_file_names_its_project(gone, name, said, data_dir):
    (data_dir / gone).unlink()
    with pytest.raises(ConfigError, match=re.escape(said)) as told:
        one(name, data_dir)
    assert "\n" not in str(told.value) and "nothing is fetched" in str(told.value)


@pytest.mark.parametrize(("name", "said"), [
    ("aad_pope_popular", "take it from cocodataset.org, val2014"),
    ("aad_amber", "README of github.com/junyangwang0410/AMBER"),
])  # fmt: skip
def test_a_missing_picture_names_its_project(name, said, data_dir):
    (data_dir / "images" / "one.png").unlink()
    task = one(name, data_dir)
    with pytest.raises(ConfigError, match=re.escape(said)) as told:
        task.construct_requests(task.eval_docs[0], "x")
    assert "\n" not in str(told.value) and "one.png" in str(told.value)


def test_without_a_folder(monkeypatch):
    monkeypatch.delenv("AAD_DATA_DIR", raising=False)
    from tests.tasks.test_tasks import load

    with pytest.raises(ConfigError, match="this task reads a folder of yours: pass --metadata"):
        load("aad_pope_random")


def test_what_scores_descriptions_is_looked_for_before_anything_is_answered(data_dir, monkeypatch):
    monkeypatch.setattr("aad_plugin.rivals.nouns._MODEL", "no_such_model")
    task = one("aad_amber_generative", data_dir)
    said = r"pip install 'aad_plugin\[amber\]'|nltk\.downloader|spacy download"
    with pytest.raises(BackendMissing, match=said) as told:
        task.build_all_requests(limit=1, rank=0, world_size=1)
    assert "\n" not in str(told.value)


def test_missing_word_lists_are_told_before_anything_is_answered(data_dir):
    (data_dir / "relation.json").unlink()
    with pytest.raises(ConfigError, match=r"no relation\.json in .*: take it from github\.com/junyangwang0410/AMBER"):
        one("aad_amber_generative", data_dir).build_all_requests(limit=1, rank=0, world_size=1)


# ------------------------------------------------------------------------------------------------ AMBER


def test_a_description_by_hand():
    # Picture: dog, tree. Imagined: bird. Words for dog: puppy; for tree: forest.
    count = lambda text, near=None: describe(text, ["dog", "tree"], ["bird"], AMBER, ["light"], ByTable(near))  # noqa: E731
    # dog and puppy cover one object; "red" and "ball" are no objects AMBER knows; sky is known and not there.
    assert count("a dog puppy with red balls under the sky") == Described(3, 1, 1, 2, 0, 1)
    # bird is imagined and invented; each of the two counts as named, the object once.
    assert count("birds birds forest") == Described(3, 2, 1, 2, 1, 1)
    # a safe word is neither invented nor covers anything (here it is no object either, so it is not named).
    assert count("light") == Described(0, 0, 0, 2, 0, 1)
    # A near-synonym of the picture's tree is no invention, and covers it; of the bird it is imagined all the same.
    near = {frozenset(("sky", "tree")): 0.9, frozenset(("sky", "bird")): 0.81}
    assert count("sky", near) == Described(1, 0, 1, 2, 1, 1)
    assert count("sky", {frozenset(("sky", "tree")): 0.8}) == Described(1, 1, 0, 2, 0, 1)  # more than 0.8 is meant


def test_a_word_of_two_objects_covers_the_first_as_upstream_finds_it():
    # Associated words are looked up before the objects' own names: "forest" stands for the tree although it is an object.
    association = {"tree": ["forest"], "forest": ["tree"]}
    found = describe("forest", ["tree", "forest"], [], association, [], ByTable())
    assert found == Described(1, 0, 1, 2, 0, 0)
    assert describe("forest tree", ["tree", "forest"], [], association, [], ByTable()).covered == 2


def test_description_figures_by_hand():
    found = description_figures([Described(4, 1, 2, 3, 1, 2), Described(1, 0, 1, 2, 0, 2)])
    assert found == pytest.approx({"chair": 1 / 5, "cover": 3 / 5, "hal": 1 / 2, "cog": 1 / 4})
    assert all(math.isnan(value) for value in description_figures([]).values())


def test_question_figures_by_hand():
    # "no" is what is to be found: said no 3 times, 2 rightly; meant 4 times, 2 found.
    pairs = [("no", "no"), ("no", "no"), ("yes", "no"), ("no", "yes"), ("no", None), ("yes", "yes")]
    found = question_figures(pairs)
    assert found == pytest.approx({"accuracy": 3 / 6, "precision": 2 / 3, "recall": 2 / 4, "f1": 4 / 7})
    # Table of the paper: a CHAIR of 7.8 and an F1 of 74.7 make a score of 83.45.
    assert amber_score(0.078, 0.747) == pytest.approx(0.8345)


@pytest.mark.parametrize(("answer", "said"), [
    ("Yes", "yes"), ("No", "no"), ("no.", "no"), (" Yes, it is.", "yes"), ("**No**", "no"), ("Nope", None), ("", None),
    ("It is not.", None),
])  # fmt: skip
def test_a_yes_or_no_is_the_first_word(answer, said):
    assert read_yes_no(answer) == said


def test_amber_scores_gold(data_dir):
    task = one("aad_amber", data_dir)
    task.words = ByTable()
    gold = score(task, lambda doc: doc["label"] or "a dog by a tree")
    for name in (
        "accuracy",
        "f1",
        "f1_existence",
        "f1_attribute",
        "f1_number",
        "precision_relation",
        "cover",
        "amber_score",
    ):
        assert gold[f"{name}_aad"] == 1, name
    assert (gold["chair_aad"], gold["hal_aad"], gold["cog_aad"], gold["unparsed_aad"]) == (0, 0, 0, 0)
    other = score(task, lambda doc: {"yes": "No", "no": "Yes", "": "birds"}[doc["label"]])
    assert (other["accuracy_aad"], other["chair_aad"], other["hal_aad"], other["cog_aad"]) == (0, 1, 1, 1)
    assert other["amber_score_aad"] == 0
    assert score(task, lambda doc: "Perhaps")["unparsed_aad"] == 1, "descriptions are neither parsed nor unparsed"


def test_ambers_parts(data_dir):
    asked = one("aad_amber_discriminative", data_dir)
    assert len(asked.eval_docs) == 10 and "chair_aad" not in asked.aggregation()
    described = one("aad_amber_generative", data_dir)
    assert len(described.eval_docs) == 1 and "accuracy_aad" not in described.aggregation()
    assert json.loads(described.eval_docs[0]["truth"]) == ["dog", "tree"]


def test_annotations_that_do_not_fit(data_dir):
    rows = json.loads((data_dir / "annotations.json").read_text())
    (data_dir / "annotations.json").write_text(json.dumps(rows[:-1]))
    with pytest.raises(ConfigError, match="the annotations have no id 11; take both files from"):
        one("aad_amber", data_dir)
    rows[1]["truth"] = "maybe"
    (data_dir / "annotations.json").write_text(json.dumps(rows))
    with pytest.raises(ConfigError, match="a truth of yes or no, got 'existence', 'maybe'"):
        one("aad_amber", data_dir)
