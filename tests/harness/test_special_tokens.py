"""Which special tokens a conversation is read with, and which end an answer, is the same in every command."""

from __future__ import annotations

import shutil

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from aad_plugin.harness.asking import ask, load_model, render
from aad_plugin.harness.model import AADLM
from aad_plugin.pair.account import describe
from aad_plugin.pair.answering import answer, encode_prompts
from aad_plugin.pair.model import AlignedPair, load_pair
from aad_plugin.training.evaluation import greedy_answers
from tests.pairs import toy_pair
from tests.toys import EOS, VOCAB, byte_tokenizer

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


def test_an_answer_ends_by_the_tokenizers_end_token_in_every_command():
    """Was: by those of generation_config alone, the base's for every LoRA, so `answer` went on into a turn of its own."""
    toy = toy_pair("reference_plus_lora")
    ids, mask = encode_prompts(toy.pair, ["Tell me"])
    whole = toy.pair.generate(ids, attention_mask=mask, max_new_tokens=12)[0, ids.shape[1] :].tolist()
    end = toy.pair.tokenizer.encode("/")[0]
    assert EOS not in whole and 0 < whole.index(end) < 11
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "/"})
    pair = AlignedPair(toy.pair.sides, vocab_size=VOCAB, tokenizer=tokenizer)
    assert pair.generation_config.eos_token_id == [EOS, end]
    assert describe(pair)["end_tokens"] == sorted([EOS, end]) and "end_tokens" not in describe(toy.pair)
    text = tokenizer.decode(whole[: whole.index(end)])
    assert answer(pair, ["Tell me"], max_new_tokens=12) == [text]
    model = AADLM(pretrained=pair, answers_dir="none", device="cpu")
    (kept,) = ask(model, [render(model, "Tell me")], {"max_gen_toks": 12, "until": []}, progress=False)
    assert (kept.answer, kept.truncated) == (text, False)
    assert AlignedPair(toy.pair.sides, vocab_size=end, tokenizer=tokenizer).generation_config.eos_token_id == EOS
