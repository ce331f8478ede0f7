"""Preference files as users bring them, and what ``aad pairs check`` says of a pair by them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from aad_plugin.cli.main import app
from aad_plugin.errors import ConfigError
from aad_plugin.pair import check
from aad_plugin.pair.check import implicit_rewards, preference_accuracy
from aad_plugin.texts.preferences import Preference, read_preferences
from tests.pairs import toy_pair


def turn(role, text):
    return [{"role": role, "content": text}]


def test_standard_conversational_and_implicit_prompts(tmp_path):
    path = tmp_path / "p.jsonl"
    user, good, bad = turn("user", "Hi"), turn("assistant", "good"), turn("assistant", "bad")
    rows = [
        {"prompt": "Hi", "chosen": "good", "rejected": "bad"},
        {"prompt": user, "chosen": good, "rejected": bad},
        {"chosen": user + good, "rejected": user + bad},
        {"prompt": "Hi", "chosen": user + good, "rejected": bad},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_preferences(path) == [Preference(user, "good", "bad")] * 4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "a", "chosen": "x", "rejected": "x "}', "line 2: chosen and rejected are equal"),
        (
            '{"prompt": "a", "chosen": "x"}',
            'line 2: expected a JSON object with chosen and rejected, got \'{"prompt": "a", "chosen": "x"}\'',
        ),
        ('{"prompt": "a", "chosen": "x", "rejected": " "}', "line 2: prompt, chosen and rejected must hold text"),
        ('{"prompt": "a", "chosen": "x", "rejected": null}', "line 2: prompt, chosen and rejected must hold text"),
        ('{"prompt": " ", "chosen": "x", "rejected": "y"}', "line 2: prompt, chosen and rejected must hold text"),
        ('{"prompt": 7, "chosen": "x", "rejected": "y"}', "line 2: prompt, chosen and rejected must hold text"),
        ('{"prompt": "a", "chosen": ["x"], "rejected": "y"}', "line 2: prompt, chosen and rejected must hold text"),
        (
            '{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}], "rejected": '
            '[{"role": "user", "content": "r"}, {"role": "assistant", "content": "y"}]}',
            "line 2: rejected does not begin as the prompt (or as chosen) does; expected conversations that differ in the "
            "last turn alone",
        ),
        (
            '{"prompt": "q", "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}], '
            '"rejected": "y"}',
            "line 2: chosen does not begin as the prompt (or as chosen) does; expected conversations that differ in the "
            "last turn alone",
        ),
        (
            '{"prompt": "q", "chosen": [{"role": "user", "content": "x"}], "rejected": "y"}',
            "line 2: chosen must end with the assistant's turn, got 'user'",
        ),
        ("[1]", "line 2: expected a JSON object with chosen and rejected, got '[1]'"),
        ("not json", "line 2: expected a JSON object with chosen and rejected, got 'not json'"),
    ],
)
def test_a_broken_line_is_named(tmp_path, row, message):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "chosen": "x", "rejected": "y"}\n' + row + "\n")
    with pytest.raises(ConfigError) as caught:
        read_preferences(path)
    assert str(caught.value) == f"{path}, {message}"


def test_accuracy_and_margins_are_those_of_the_implicit_reward():
    pair = toy_pair("two_models").pair
    preferences = [Preference(turn("user", f"Say {i}"), f"yes {i * 7}", f"no {i}") for i in range(9)]
    found = preference_accuracy(pair, preferences, progress=False)
    rewards = [implicit_rewards(pair, p.prompt, (p.chosen, p.rejected)) for p in preferences]
    margins = sorted(chosen - rejected for chosen, rejected in rewards)
    assert found.accuracy == sum(margin > 0 for margin in margins) / 9 and found.n == 9
    assert found.mean_margin == pytest.approx(sum(margins) / 9)
    assert found.quartiles == pytest.approx(
        (margins[2], margins[4], margins[6])
    )  # of 9 sorted values: no interpolation
    assert found.interval[0] < found.accuracy < found.interval[1]


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_a_preference_beyond_the_context_is_refused_by_its_number(arch, monkeypatch):
    """Was: an IndexError with learned positions, and with rotary ones a figure of positions that nobody trained."""
    pair = toy_pair("reference_plus_lora", arch).pair
    context, short = pair.config.max_position_embeddings, Preference(turn("user", "Say"), "yes", "no")
    room = context - len(pair.tokenizer("<user>Say<assistant>")["input_ids"])
    check.check_preferences(pair, [short, Preference(turn("user", "Say"), "y" * room, "no")])
    monkeypatch.setattr(check, "implicit_rewards", lambda *_: pytest.fail("nothing is scored"))
    message = (
        f"preference 2: a prompt of {context - room} tokens and an answer of {room + 1} exceed the context of {context}"
    )
    with pytest.raises(ConfigError, match=message):
        preference_accuracy(pair, [short, Preference(turn("user", "Say"), "no", "y" * (room + 1))], progress=False)


def test_pairs_of_one_prompt_count_together(monkeypatch):
    """Ten prompts of four pairs each, seven of them right: forty pairs by themselves would be told from chance."""
    rewards = iter([(1.0, 0.0)] * 28 + [(0.0, 1.0)] * 12)
    monkeypatch.setattr(check, "check_preferences", lambda *_: None)
    monkeypatch.setattr(check, "implicit_rewards", lambda *_: next(rewards))
    preferences = [Preference(turn("user", f"Say {i // 4}"), "yes", "no") for i in range(40)]
    found = preference_accuracy(None, preferences, progress=False)
    assert found.accuracy == 0.7 and found.near_chance and not found.reversed
    rewards = iter([(0.0, 1.0)] * 37 + [(1.0, 0.0)] * 3)
    apart = [Preference(turn("user", f"Say {i}"), "yes", "no") for i in range(40)]
    swapped = preference_accuracy(None, apart, progress=False)
    assert swapped.reversed and not swapped.near_chance


def test_pairs_check_prints_accuracy_and_margins(checkpoints, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "chosen": "x", "rejected": "y"}\n' * 3)
    named = f"reference={checkpoints.base},adapter={checkpoints.adapter}"
    done = CliRunner().invoke(app(), ["pairs", "check", "--model-args", named, "--preferences", str(path)])
    assert done.exit_code == 0, done.exception
    text = " ".join(done.output.replace("│", " ").split())
    assert "implicit reward" in text and "quartiles" in text


def test_pairs_check_refuses_two_identical_checkpoints(checkpoints, caplog):
    named = f"policy={checkpoints.base},reference={checkpoints.base}"
    done = CliRunner().invoke(app(), ["pairs", "check", "--model-args", named])
    assert done.exit_code == 1 and isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith("policy and reference hold the same weights, so every advantage is zero")
    assert "hold the same weights" in caplog.text, "whoever loads such a pair is told"


def test_the_same_weights_are_found_under_any_dress(checkpoints):
    pair = toy_pair("reference_plus_lora").pair
    assert not pair.sides.have_same_weights()
    for name, weight in pair.sides.model.named_parameters():
        if "lora_B" in name:
            weight.data.zero_()
    assert pair.sides.have_same_weights(), "an adapter that was never trained"
    two = toy_pair("two_adapters").pair
    assert not two.sides.have_same_weights()
    weights = dict(two.sides.model.named_parameters())
    for name, weight in weights.items():
        if ".reference." in name:
            weight.data.copy_(weights[name.replace(".reference.", ".policy.")])
    assert two.sides.have_same_weights()
    layer = next(one for one in two.sides.model.modules() if isinstance(getattr(one, "scaling", None), dict))
    layer.scaling["policy"] *= 2
    assert not two.sides.have_same_weights(), "the same tensors added twice as strongly"
    assert not toy_pair("two_models").pair.sides.have_same_weights()
