"""The making of two guides: what brevity prefers, and that TRL's result loads as guides and draws a front."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from aad_plugin.demo.training_prompts import trained_prompts
from aad_plugin.errors import ConfigError
from aad_plugin.texts.prompts import prompt_rows
from experiments import guide_weights
from experiments.demo_pair import guides, training
from experiments.demo_pair.pairs import Pair
from tests.pair.test_guide_loading import reward_model
from tests.toys import byte_tokenizer

DEMO_TASK = "tasks/demo/dialogue/prompts.jsonl"


def words(text: str) -> int:
    return len(text.split())


def good(text: str, *, ended: bool = True, prompt: str = "p") -> Pair:
    return Pair("id", "careless", False, prompt, text, "bad", words(text), 1, ended, True)


def test_brevity_prefers_the_shorter_of_two_good_answers():
    short, long = "one " * 13, "two " * 20
    (found,) = guides.brevity_pairs([good(long, ended=False), good(short), good(long, prompt="q")], words)
    assert (found.kind, found.chosen, found.rejected) == ("shorter_answer", short, long)
    assert (found.chosen_ended, found.rejected_ended) == (True, False)
    # One that was cut is not shown to be short.
    assert not guides.brevity_pairs([good(long), good(short, ended=False)], words)
    assert not guides.brevity_pairs([good(short), good("six " * 13)], words)


def test_brevity_prefers_the_first_sentences_to_the_whole():
    first, rest = "word " * 12 + "end.", " more" * 8
    (found,) = guides.brevity_pairs([good(first + rest, ended=False)], words)
    assert (found.kind, found.chosen, found.rejected) == ("first_sentences", first, first + rest)
    assert (found.chosen_tokens, found.chosen_ended, found.rejected_ended) == (13, True, False)
    for text in (first, first + " more" * 5, "1. A list 2. Of parts" + " more" * 20):  # no rest, 13 of 18, no sentence
        assert not guides.brevity_pairs([good(text)], words)
    # A sentence of fewer than twelve tokens goes on into the next.
    (found,) = guides.brevity_pairs([good("Yes, indeed. " + first + rest * 2)], words)
    assert found.chosen == "Yes, indeed. " + first


def test_both_guides_learn_from_the_demo_pairs_prompts_and_from_none_that_is_measured():
    made = guides.preferences(words)
    shown = {aim: {pair.prompt for pair in pairs if not pair.held_out} for aim, pairs in made.items()}
    assert tuple(made) == guides.AIMS
    assert shown["brevity"] < shown["helpfulness"] <= set(trained_prompts("demo", "policy", held_out=False))
    every = {pair.prompt for pairs in made.values() for pair in pairs}
    measured = {prompt for _, prompt in prompt_rows(DEMO_TASK)} | set(trained_prompts("demo", "reward"))
    assert measured and not every & measured
    kinds = Counter(pair.kind for pair in made["brevity"])
    assert kinds["first_sentences"] > 100 and kinds["shorter_answer"] > 10
    assert all(pair.chosen_tokens < pair.rejected_tokens for pair in made["brevity"])


@pytest.mark.slow
@pytest.mark.grid
def test_what_is_trained_guides_and_draws_a_front(checkpoints, tmp_path):
    base, work = tmp_path / "base", tmp_path / "work"
    shutil.copytree(checkpoints.base, base)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
    )
    tokenizer.save_pretrained(base)
    asked = ["--work", str(work), "--base", str(base), "--trl", "--max_steps 4 --save_steps 2 --learning_rate 1e-2"]
    guides.main(asked)
    shutil.rmtree(work / "out")
    guides.main(asked)
    assert "checkpoint-2" in (work / "brevity.log").read_text().rpartition("\n$ ")[2].partition("\n")[0]
    with pytest.raises(ConfigError, match=r"holds other guides: .* not .--max_steps 9"):
        guides.main([*asked[:-1], "--max_steps 9"])
    for aim in guides.AIMS:
        config = json.loads((work / "out" / aim / "adapter_config.json").read_text())
        assert (config["r"], config["base_model_name_or_path"]) == (8, str(base))
    rows = [json.loads(line) for line in (work / "sets/brevity/train.jsonl").read_text().splitlines()]
    assert not any(row["chosen"][0]["content"].endswith(training.CUT) for row in rows)
    check_front(str(base), [str(work / "out" / aim) for aim in guides.AIMS], tmp_path)


def check_front(base: str, adapters: list[str], folder: Path) -> None:
    """Draw the front of two adapters of a base, measured against it; draw it again; ask for another one there."""
    reward_model().save_pretrained(folder / "oracle")
    byte_tokenizer().save_pretrained(folder / "oracle")
    drawn = [
        "--model-args", f"policy={base},guide={'+'.join(adapters)},guide_reference={base}+{base},dtype=float32",
        "--weights", "0,2", "--oracle", f"reward:{folder / 'oracle'}", "--prompts", DEMO_TASK, "--limit", "3",
        "--max-new-tokens", "6", "--output", str(folder / "weights"),
    ]  # fmt: skip
    guide_weights.main(drawn)
    points = json.loads((folder / "weights/points.json").read_text())["points"]
    assert [point["weights"] for point in points] == [[0, 0], [0, 2], [2, 0], [2, 2]]
    assert len({str(point["answers"]) for point in points}) > 1, "the guides have to change something"
    before = (folder / "weights/points.json").stat().st_mtime_ns
    guide_weights.main(drawn)
    assert (folder / "weights/points.json").stat().st_mtime_ns == before, "nothing is decoded twice"
    assert (folder / "weights/front.svg").stat().st_size < 100_000
    with pytest.raises(ConfigError, match="holds points of another kind"):
        guide_weights.main([*drawn, "--limit", "2"])


def test_two_adapters_of_a_base_draw_a_front_that_goes_on(checkpoints, tmp_path):
    check_front(str(checkpoints.base), [str(checkpoints.adapter), str(checkpoints.sft_adapter)], tmp_path)


@pytest.mark.parametrize(("more", "said"), [
    (["--weights", "0,x"], "--weights are numbers with commas between them, got '0,x'"),
    (["--weights", "0,-1"], "guide_scale must be a number from 0"),
    (["--weights", "nan"], "guide_scale must be a number from 0"),
    ([], r"expected two guides, got 1 \(--model-args"),
])  # fmt: skip
def test_a_front_that_cannot_be_drawn_is_one_line(checkpoints, tmp_path, more, said):
    reward_model().save_pretrained(tmp_path / "oracle")
    byte_tokenizer().save_pretrained(tmp_path / "oracle")
    one = f"policy={checkpoints.base},guide={checkpoints.adapter}"
    words = ["--model-args", one, "--oracle", f"reward:{tmp_path / 'oracle'}", "--prompts", DEMO_TASK]
    with pytest.raises(ConfigError, match=said) as caught:
        guide_weights.main([*words, "--output", str(tmp_path / "out"), *more])
    assert "\n" not in str(caught.value)
