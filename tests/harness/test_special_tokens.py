"""A conversation is read with the special tokens that its chat template writes, by every command alike."""

from __future__ import annotations

import shutil

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from aad_plugin.harness.asking import load_model, render
from aad_plugin.pair.answering import answer, encode_prompts
from aad_plugin.pair.model import load_pair
from aad_plugin.training.evaluation import greedy_answers

PROMPTS = ["Hi there", "What is tea?"]
TEMPLATE = "{% for turn in messages %}{{ turn['role'] + ': ' + turn['content'] + '\n' }}{% endfor %}assistant:"


@pytest.fixture(params=[TEMPLATE, None], ids=["chat template", "none"])
def args(request, checkpoints, tmp_path) -> dict[str, str]:
    """A pair whose tokenizer begins every text with a token of its own, which the chat template does not write."""
    folders = {}
    for role in ("policy", "reference"):
        folder = tmp_path / role
        shutil.copytree(getattr(checkpoints, role), folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        begin = tokenizer.convert_ids_to_tokens(3)
        tokenizer.bos_token = begin
        tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 3)])
        tokenizer.chat_template = request.param
        tokenizer.save_pretrained(folder)
        folders[role] = str(folder)
    return {**folders, "dtype": "float32", "device": "cpu"}


def test_answers_of_the_commands_are_those_of_answer(args, tmp_path):
    pair = load_pair(**args)
    model = load_model("hf", {**args, "answers_dir": "none"})
    for prompt in PROMPTS:
        wanted = encode_prompts(pair, [prompt])[0][0].tolist()
        assert model.tok_encode(render(model, prompt)) == wanted
        assert model.tok_batch_encode([render(model, prompt)])[0][0].tolist() == wanted
        assert (wanted[0] == 3) is (pair.tokenizer.chat_template is None)
    sets = {"prompts": type("Set", (), {"prompts": PROMPTS})}
    (found,) = greedy_answers(tmp_path / "out", args, sets, engine="hf", batch_size=2, max_new_tokens=8)
    assert found == [text.strip() for text in answer(pair, PROMPTS, strategy="greedy", max_new_tokens=8)]


def test_an_own_add_bos_token_stays(args):
    assert load_model("hf", {**args, "answers_dir": "none", "add_bos_token": True}).add_bos_token is True
