"""Explanations agree with decoding, and with log-probabilities computed apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from aad_plugin.cli.main import app
from aad_plugin.decoding import token_advantage
from aad_plugin.errors import ConfigError
from aad_plugin.explain.explaining import explain, explain_answer
from aad_plugin.explain.texts import answer_pieces
from aad_plugin.pair.answering import answer, encode_prompts
from aad_plugin.pair.recorder import MAX_PLAUSIBLE
from aad_plugin.pair.step import Step
from tests.pairs import KINDS, toy_pair
from tests.toys import byte_tokenizer, log_softmax

STRATEGIES = ("aad", "greedy", "reference", "eft", "expo", "sample", "best_of_3")
PROMPT = "hello there"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_what_the_naive_readers_say(kind, strategy):
    toy = toy_pair(kind)
    found = explain(toy.pair, PROMPT, strategy=strategy, max_new_tokens=16)
    assert found.answer == answer(toy.pair, [PROMPT], strategy=strategy, max_new_tokens=16)[0]
    assert found.greedy == answer(toy.pair, [PROMPT], strategy="greedy", max_new_tokens=16)[0]
    prefix = encode_prompts(toy.pair, [PROMPT])[0][0].tolist()
    total = 0.0
    for step in found.steps:
        policy, reference = (log_softmax(read(prefix)[: toy.pair.vocab_size]) for read in (toy.policy, toy.reference))
        chosen = step.chosen.id
        assert step.chosen.log_policy == pytest.approx(policy[chosen], abs=1e-4)
        assert step.chosen.log_reference == pytest.approx(reference[chosen], abs=1e-4)
        assert step.favourite.id == policy.argmax()
        members = np.flatnonzero(policy >= policy.max() + np.log(0.1))
        assert {token.id for token in step.plausible} == set(members)
        assert step.num_plausible == len(members)
        assert list(step.plausible) == sorted(step.plausible, key=lambda token: -token.log_policy)
        if strategy == "aad":
            assert step.chosen.advantage == max(token.advantage for token in step.plausible)
        total += policy[chosen] - reference[chosen]
        prefix.append(chosen)
    assert found.reward == pytest.approx(total, abs=1e-3)
    assert found.running_reward[-1] == pytest.approx(found.reward)


def test_figures_are_those_of_the_decoding_rule():
    pair = toy_pair("two_models").pair
    found = explain(pair, PROMPT, max_new_tokens=4)
    ids, mask = encode_prompts(pair, [PROMPT])
    with torch.no_grad():
        policy, reference = pair.sides.logits(("policy", "reference"), Step(ids, keep=1, attention_mask=mask))
    advantage = token_advantage(policy[0, -1, : pair.vocab_size], reference[0, -1, : pair.vocab_size])
    first = found.steps[0]
    for token in first.plausible:
        assert token.advantage == pytest.approx(float(advantage[token.id]), abs=1e-5)


def test_departures_are_ordered_by_what_they_gained():
    found = explain(toy_pair("reference_plus_lora").pair, PROMPT, max_new_tokens=16)
    gains = [step.gain for _, step in found.departures()]
    assert gains and gains == sorted(gains, reverse=True)
    for step in found.steps:
        assert 0 <= step.cost <= -np.log(0.1) + 1e-5
        assert step.departs == (step.chosen.id != step.favourite.id)
        assert step.gain >= -1e-6  # AAD never takes a smaller advantage than the favourite's


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_answer_is_scored_token_by_token(kind):
    toy = toy_pair(kind)
    found = explain_answer(toy.pair, PROMPT, "given", alpha=0.3)
    assert found.given and found.answer == "given" and found.truncated is None and found.greedy is None
    prefix = encode_prompts(toy.pair, [PROMPT])[0][0].tolist()
    assert [step.chosen.text for step in found.steps] == list("given")
    for step in found.steps:
        policy, reference = (log_softmax(read(prefix)[: toy.pair.vocab_size]) for read in (toy.policy, toy.reference))
        assert step.chosen.advantage == pytest.approx(policy[step.chosen.id] - reference[step.chosen.id], abs=1e-4)
        assert step.num_plausible == (policy >= policy.max() + np.log(0.3)).sum()
        prefix.append(step.chosen.id)


def test_a_long_given_answer_is_read_in_pieces(monkeypatch):
    toy = toy_pair("two_adapters")
    whole = explain_answer(toy.pair, PROMPT, "some words to score")
    monkeypatch.setattr("aad_plugin.pair.rereading._MAX_LOGITS", 7 * 2 * toy.pair.vocab_size)  # 7 positions
    pieces = explain_answer(toy.pair, PROMPT, "some words to score")
    assert pieces.reward == pytest.approx(whole.reward, abs=1e-4)
    assert len(pieces.steps) == len("some words to score")


def test_many_plausible_tokens_are_counted_and_the_likeliest_kept():
    found = explain(toy_pair("two_models").pair, PROMPT, alpha=1e-6, max_new_tokens=2)
    step = max(found.steps, key=lambda step: step.num_plausible)
    assert step.num_plausible > MAX_PLAUSIBLE == len(step.plausible)
    assert found.to_json()["steps"][0]["plausible"][0]["id"] == found.steps[0].favourite.id


def test_pieces_join_to_the_text_and_characters_stand_whole():
    tokenizer = byte_tokenizer()
    text = "naïve 😀 日本 end"
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    pieces = answer_pieces(tokenizer, ids)
    assert "".join(pieces) == text + "<eos>"
    assert "😀" in pieces and pieces.count("") == len(text.encode()) - len(text)
    assert "".join(answer_pieces(tokenizer, ids[:9])) == tokenizer.decode(ids[:9])  # ends within the emoji


def test_beams_are_refused():
    from aad_plugin.pair.strategies import decode

    pair = toy_pair("two_models").pair
    ids, mask = encode_prompts(pair, [PROMPT])
    with pytest.raises(
        ConfigError, match="a trace follows one answer token by token: leave num_beams out, or the trace"
    ):
        decode(pair, ids, mask, pair.settings, on_readings=lambda _: None, max_new_tokens=2, num_beams=2)


def _run(checkpoints, *arguments: str):
    from typer.testing import CliRunner

    model = ",".join(f"{name}={path}" for name, path in checkpoints.model_args("two_models").items())
    return CliRunner().invoke(app(), ["explain", *arguments, "--model-args", model])


def test_the_command_writes_all_three_views(checkpoints, tmp_path):
    page, figures = tmp_path / "new" / "a.html", tmp_path / "a.json"
    result = _run(checkpoints, PROMPT, "--max-new-tokens", "8", "--output", str(page), "--output", str(figures))
    assert result.exit_code == 0, result.output
    assert "implicit reward" in result.output and "greedy answer of the policy" in result.output
    data = json.loads(figures.read_text())
    assert data["reward"] == pytest.approx(sum(step["chosen"]["advantage"] for step in data["steps"]), abs=1e-4)
    assert data["steps"][-1]["running_reward"] == data["reward"]
    text = page.read_text()
    assert (
        "<title>Why each token</title>" in text
        and "Content-Security-Policy" in text
        and 'src="' not in text.split("<body>")[0]
    )


def test_departures_that_lose_count_by_how_much():
    """Of a given answer most departures lose; the list used to start with the one that lost least."""
    found = explain_answer(toy_pair("two_models").pair, PROMPT, "something nobody would decode")
    gains = [step.gain for _, step in found.departures()]
    assert min(gains) < 0 and [abs(gain) for gain in gains] == sorted(map(abs, gains), reverse=True)


@pytest.mark.parametrize("text", ["abc", "abc\n", "abc\r\n"])
def test_a_given_answer_from_a_file(checkpoints, tmp_path, text):
    """The newline that ends a text file is no token of the answer."""
    (tmp_path / "a.txt").write_text(text, newline="")
    result = _run(checkpoints, PROMPT, "--answer", str(tmp_path / "a.txt"))
    assert result.exit_code == 0 and "given answer" in result.output and "3 tokens;" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([" "], "prompt 1 is empty: expected text to answer"),
        (["x", "--alpha", "0"], "alpha must be a number in (0, 1], got 0.0"),
        (["x", "--strategy", "add"], "did you mean 'aad'?"),
        (["x", "--answer", "none.txt"], "cannot read the answer none.txt: No such file or directory"),
        (["x", "--answer", "{empty}"], "the answer is empty: expected text to score"),
        (["x", "--answer", "{long}"], "shorten it or lower max_new_tokens"),
        (
            ["x", "--answer", "{long}", "--seed", "5", "--max-new-tokens", "1"],
            "makes no use of --seed, --max-new-tokens",
        ),
        (["x", "--answer", "{long}", "--expo-scale", "7"], "makes no use of --expo-scale: leave it out"),
        (
            ["x", "--answer", "{long}", "--strategy", "aad"],
            "--answer scores a text as it stands, --strategy decodes one",
        ),
        (["x", "--output", "/dev/null/a.html"], "cannot write /dev/null/a.html: File exists; pass another file"),
        (["x", "--output", "why.txt"], "FILE.html (a page) or FILE.json (every figure), got why.txt"),
        (["x", "--json", "{tmp}"], "it is a folder, expected a file; pass another file"),
        (["x", "--max-new-tokens", "0"], "max_new_tokens must be at least 1, got 0"),
    ],
)
def test_mistakes_are_one_line(checkpoints, tmp_path, arguments, message):
    places = {"tmp": str(tmp_path), "empty": str(tmp_path / "empty.txt"), "long": str(tmp_path / "long.txt")}
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "long.txt").write_text("x" * 600)
    result = _run(checkpoints, *(one.format(**places) for one in arguments))
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception) and "\n" not in str(result.exception)


@pytest.mark.grid
def test_the_sum_of_advantages_is_the_log_ratio_on_twenty_demo_prompts():
    """log π(y) of each model alone, over prompt and answer in one uncached forward, PEFT switching the adapter."""
    from aad_plugin.pair.model import load_pair
    from aad_plugin.tasks.demo.dialogue.load import prompts

    pair = load_pair("demo", dtype="float32")
    texts = prompts()["test"]["prompt"][:20]
    worst = 0.0
    for text in texts:
        found = explain(pair, text, max_new_tokens=32, beside_greedy=False)
        ids, _ = encode_prompts(pair, [text])
        answer_ids = torch.tensor([[step.chosen.id for step in found.steps]])
        whole = torch.cat([ids, answer_ids], dim=1)
        model = pair.sides.model
        with torch.no_grad():
            policy = _answer_logprob(model(input_ids=whole).logits, answer_ids)
            with model.disable_adapter():
                reference = _answer_logprob(model(input_ids=whole).logits, answer_ids)
        worst = max(worst, abs(found.reward - (policy - reference)))
    print(f"largest difference of {len(texts)} prompts: {worst:.2e} nats")
    assert len(texts) == 20 and worst < 1e-3


def _answer_logprob(logits: torch.Tensor, answer_ids: torch.Tensor) -> float:
    rows = logits[:, -answer_ids.shape[1] - 1 : -1].double().log_softmax(-1)
    return float(rows.gather(-1, answer_ids[..., None]).sum())


def test_the_page_names_pair_dtype_and_version(checkpoints, tmp_path):
    """A page that is passed on says what it is about: nobody else knows."""
    page, figures = tmp_path / "why.html", tmp_path / "why.json"
    result = _run(checkpoints, PROMPT, "--max-new-tokens", "4", "--output", str(page), "--output", str(figures))
    assert result.exit_code == 0, result.exception
    found = json.loads(figures.read_text())
    assert found["pair"].count(" + ") == 1 and found["dtype"]
    text = page.read_text()
    assert f'"pair":"{found["pair"]}"' in text and f'"made":"{found["dtype"]}, aad_plugin ' in text
