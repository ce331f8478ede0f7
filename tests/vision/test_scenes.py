"""Pictures of shapes: what is drawn, what is asked of it, how answers are scored, and the task through the harness."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch

from aad_plugin.tasks.vision.demo.scenes import (
    COLORS,
    NUMBERS,
    PLACES,
    SHAPES,
    described,
    description_values,
    first_words,
    read_description,
    read_yes_no,
)
from experiments.demo_vision import documents, held_out, sft, tower
from experiments.demo_vision import dpo as preferences
from experiments.demo_vision.drawing import _RGB, scene
from experiments.demo_vision.questions import asked, count, description, probe, single

SEEDS = range(60)


def test_a_seed_is_one_picture():
    one, again = scene(7), scene(7)
    assert one == again and one.image().tobytes() == again.image().tobytes()
    assert one.image().size == (96, 96)
    assert scene(8).image().tobytes() != one.image().tobytes()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_scene_says_is_drawn(seed):
    """Each thing has its cell for itself, and pixels near its middle have its own colour, or that of one drawn later."""
    one = scene(seed)
    assert len({thing.cell for thing in one.things}) == len(one.things) <= 6
    pixels = np.asarray(one.image()).astype(int)
    for number, thing in enumerate(one.things):
        assert np.abs(np.subtract(thing.rgb, _RGB[thing.kind[0]])).max() <= 20
        assert thing.place == PLACES[int(thing.y // 32) * 3 + int(thing.x // 32)]
        own = [other.rgb for other in one.things[number:]]
        x, y = round(thing.x), round(thing.y)
        near = pixels[max(0, y - 14) : y + 15, max(0, x - 14) : x + 15].reshape(-1, 3)
        assert any((near == color).all(1).sum() > 20 for color in own)


@pytest.mark.parametrize("seed", SEEDS)
def test_answers_are_true_and_wrong_ones_are_not(seed):
    """Worked out anew from the things themselves."""
    one, rng = scene(seed), random.Random(seed)
    things, tally = one.things, Counter(thing.kind for thing in one.things)
    told = description(one, rng)
    assert read_description(told.answer) == tally != read_description(told.wrong)
    for about in ("present", "random", "adversarial"):
        question = probe(one, rng, about)
        color, shape = question.text.removeprefix("Is there a ").removesuffix("?").split()
        assert (question.answer == "yes") == ((color, shape) in tally) == (about == "present")
        near = any(color == c or shape == s for c, s in tally)
        assert about == "present" or near == (about == "adversarial")
    for question in (count(one, rng) for _ in range(10)):
        of = question.text.removeprefix("How many ").removesuffix("?").split()
        there = [
            t for t in things if of == ["things"] or (SHAPES[t.kind[1]] == of[-1] and t.kind[0] in (of[0], t.kind[0]))
        ]
        if len(of) == 2:
            there = [t for t in there if t.kind[0] == of[0]]
        assert question.answer == NUMBERS[len(there)] != question.wrong
    for question in single(one, rng):
        words = question.text.removesuffix("?").split()
        match question.kind:
            case "color":
                right = {t.kind[0] for t in things if t.kind[1] == words[-1]}
            case "shape":
                right = {t.kind[1] for t in things if t.kind[0] == words[-1]}
            case _:
                right = {t.place for t in things if t.kind == tuple(words[-2:])}
        assert right == {question.answer} and question.wrong not in right


def test_half_of_the_probes_are_absent():
    drawn = [question for seed in range(300) for question in asked(scene(seed), random.Random(seed), 7)]
    probes = [question.answer for question in drawn if question.kind == "probe"]
    assert probes.count("yes") == len(probes) / 2


def test_nothing_held_out_is_trained_on():
    sets = [sft.SEEDS, preferences.SEEDS, tower.SEEDS, tower.HELD_OUT, held_out.SEEDS, documents.SEEDS]
    seeds = [seed for part in sets for seed in part]
    assert len(seeds) == len(set(seeds))


def test_descriptions_are_read():
    assert read_description("There are two red circles, a blue star and 3 black crosses.") == Counter(
        {("red", "circle"): 2, ("blue", "star"): 1, ("black", "cross"): 3}
    )
    assert read_description("Two red circles and one red circle") == Counter({("red", "circle"): 3})
    assert not read_description("a dog, nothing red, circles")
    every = Counter({(color, shape): 1 + i % 6 for i, color in enumerate(COLORS) for shape in SHAPES})
    assert read_description(described(every)) == every


def test_descriptions_are_scored_by_hand():
    drawn = Counter({("red", "circle"): 2, ("blue", "star"): 1})
    # Named: 3 red circles (2 hit), 1 green ring (none): 2 of 3 drawn, 2 of 4 named invented, f1 = 2 * 2 / (3 + 4).
    values = description_values("three red circles and one green ring", drawn)
    assert values == {"recall": pytest.approx(2 / 3), "invented": pytest.approx(0.5), "f1": pytest.approx(4 / 7)}
    assert description_values("two red circles and one blue star", drawn) == {"recall": 1, "invented": 0, "f1": 1}
    assert description_values("nothing", drawn) == {"recall": 0, "invented": None, "f1": 0}


@pytest.mark.parametrize(
    ("text", "said"),
    [(" yes", True), ("No.", False), ("Yes, there is.", True), ("maybe", None), ("", None), ("yesterday", None)],
)
def test_yes_and_no_are_read(text, said):
    assert read_yes_no(text) is said


def test_first_words_are_read():
    assert first_words(" Top left.\nmore") == "top left"


# ---------------------------------------------------------------------------------------------- the task


@pytest.fixture(scope="module")
def task():
    from lm_eval.tasks import TaskManager

    from aad_plugin.harness.registration import tasks_path

    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
    return manager.load(["aad_vision_demo"])["tasks"]["aad_vision_demo"]


def scored(task, answers) -> dict[str, float]:
    values: dict[str, list] = {}
    for doc in task.eval_docs:
        for metric, value in task.process_results(doc, answers(doc)).items():
            values.setdefault(metric, []).append(value)
    return {
        name: fn(values[name]) for name, fn in task.aggregation().items() if name in values and "judged" not in name
    }


def test_the_task_scores_by_what_was_drawn(task):
    """aad is always right; greedy says no to everything, and describes nothing; best_of_2 says yes and invents things."""
    invented = "one red circle, one red square, one red star, one red ring, one red cross, one red triangle"
    found = scored(
        task,
        lambda doc: [doc["label"], "no", invented if doc["kind"] == "description" else "yes", doc["label"]],
    )
    assert [found[f"{name}_aad"] for name in ("question_accuracy", "probe_accuracy", "recall", "f1")] == [1, 1, 1, 1]
    assert found["hallucination_aad"] == found["invented_aad"] == 0 and found["yes_share_aad"] == 0.5
    assert found["question_accuracy_greedy"] == 0 and found["probe_accuracy_greedy"] == 0.5
    assert found["hallucination_best_of_2"] == 1 and 0 < found["f1_best_of_2"] < 0.5
    assert found["score_win_rate_vs_greedy"] == 1 and 0.9 < found["score_win_rate_low_vs_greedy"] < 1
    assert found["description_score_win_rate_vs_best_of_2"] == 1
    assert found["score_win_rate_vs_vcd"] == 0.5
    same = scored(task, lambda doc: ["red"] * 4)
    assert same["score_win_rate_vs_greedy"] == 0.5
    assert same["score_win_rate_low_vs_greedy"] <= 0.5 <= same["score_win_rate_high_vs_greedy"]


def test_the_tasks_pictures_are_those_of_its_seeds(task):
    from aad_plugin.tasks.vision.demo.load import picture

    docs = {doc["picture"]: doc for doc in task.eval_docs}
    for seed, doc in zip(documents.SEEDS, docs.values(), strict=True):
        assert picture(doc)[0].convert("RGB").tobytes() == scene(seed).image().tobytes()
    assert len(task.eval_docs) == 300


def test_requests_of_every_strategy_show_the_picture(task):
    doc = task.eval_docs[0]
    options = {"metadata": (task.config.task, 0, 1)}
    requests = task.construct_requests(doc, "<image>What?\n", **options)
    assert [request.args[1]["strategy"] for request in requests] == ["aad", "greedy", "best_of_2", "vcd"]
    assert all(request.args[2]["visual"][0].size == (96, 96) for request in requests)


# ------------------------------------------------------------------------------------- parts of the model


def test_a_mask_of_branches():
    """Two picture tokens, a branch of two, a branch of one, one of padding."""
    mask = sft._mask([0, 0, 1, 1, 2], 6)[0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_merging_is_what_peft_does(tmp_path):
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    from aad_plugin.demo.vision_model import merge_lora
    from tests.vision.families import FAMILIES

    config = LoraConfig(r=2, lora_alpha=6, target_modules=sft.TARGETS)
    tuned = get_peft_model(FAMILIES["idefics3"].model(0), config)
    torch.manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    tuned.save_pretrained(tmp_path)
    merged = FAMILIES["idefics3"].model(0)
    before = {name: value.clone() for name, value in merged.state_dict().items()}
    merge_lora(merged, load_file(tmp_path / "adapter_model.safetensors"), 3.0)
    expected = tuned.merge_and_unload().state_dict()
    changed = {name for name, value in merged.state_dict().items() if not torch.equal(value, before[name])}
    assert len(changed) == 2 * 7 and all("text_model" in name for name in changed)
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_a_tower_of_other_names_is_refused():
    from aad_plugin.demo.vision_model import load_tower
    from tests.vision.families import FAMILIES

    with pytest.raises(ValueError, match="expected the weights of tower and connector"):
        load_tower(FAMILIES["idefics3"].model(0), {"model.connector.bias": torch.zeros(1)})
