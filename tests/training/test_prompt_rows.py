"""What a training run makes of its prompts: TRL reads what the pair reads, whatever the tokenizer's template asks for."""

from __future__ import annotations

import json

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.harness.arguments import loading_args
from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.check import implicit_rewards
from aad_plugin.pair.model import load_pair
from aad_plugin.training.owning import template_words, write_rows
from tests.toys import byte_tokenizer, toy_model

SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
USER = [{"role": "user", "content": "Hi"}]
# As Qwen3's: an empty thought unless thinking is asked for, which is the default.
THINKING = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
NO_SYSTEM = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + (
    "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
)


def rows(path, prompts, tokenizer, args=None):
    write_rows(path / "rows" / "train.jsonl", prompts, tokenizer, args or {})
    lines = (path / "rows" / "train.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def with_template(template):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_chats_stay_chats(tmp_path):
    assert rows(tmp_path, [SYSTEM, USER], byte_tokenizer()) == [SYSTEM, USER]


def test_a_system_turn_that_the_template_refuses_opens_the_users(tmp_path):
    found = rows(tmp_path, [SYSTEM], with_template(NO_SYSTEM))
    assert found == [[{"role": "user", "content": "Be brief.\n\nHi"}]]


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(tmp_path):
    prompts, words = [USER, [{"role": "user", "content": "word " * 30}]], {"context": 128, "new_tokens": 8}
    with pytest.raises(
        ConfigError,
        match=r"^prompt 2 of --prompts has 1\d\d tokens; with 8 of an answer it exceeds the context of 128: ",
    ):
        write_rows(tmp_path / "rows.jsonl", prompts, byte_tokenizer(), {}, **words)
    assert not (tmp_path / "rows.jsonl").exists()
    write_rows(tmp_path / "rows.jsonl", prompts[:1], byte_tokenizer(), {}, **words)
    write_rows(tmp_path / "rows.jsonl", prompts, byte_tokenizer(), {}, new_tokens=8)


def test_without_a_template_rows_are_the_text_that_is_evaluated(tmp_path):
    assert rows(tmp_path, [SYSTEM], with_template(None)) == ["Be brief.\n\nHi\n\n"]


@pytest.mark.parametrize("args", [{}, {"enable_thinking": False}], ids=["default", "no thinking"])
def test_trl_and_the_pair_read_the_same_tokens(tmp_path, args):
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    for name, seed in (("policy", 4), ("reference", 5)):
        toy_model("llama", seed).save_pretrained(tmp_path / name)
        with_template(THINKING).save_pretrained(tmp_path / name)
    pair = load_pair(policy=str(tmp_path / "policy"), reference=str(tmp_path / "reference"), **args)
    (option, given) = template_words(args) or (None, "{}")
    assert option == ("--chat_template_kwargs" if args else None)
    config = GRPOConfig(
        output_dir=str(tmp_path / "out"), per_device_train_batch_size=2, num_generations=2, use_cpu=True, bf16=False,
        report_to="none", chat_template_kwargs=given,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=str(tmp_path / "policy"), reward_funcs=[lambda completions, **_: [0.0] * len(completions)], args=config,
        train_dataset=Dataset.from_list([{"prompt": USER}] * 2),
    )  # fmt: skip
    (read,), *_ = trainer._tokenize_prompts([USER])
    assert read == encode_prompts(pair, [USER])[0][0].tolist()
    assert pair.tokenizer.decode(read).endswith("<think></think>" if args else "<assistant>")
    # And so do the reward of a text and the model that is evaluated.
    answer = pair.tokenizer("Yes", add_special_tokens=False)["input_ids"]
    from aad_plugin.training.implicit_reward import answer_rewards

    ((wanted, _),) = answer_rewards(pair, [USER], [answer])
    assert implicit_rewards(pair, USER, ["Yes"]) == pytest.approx([wanted], abs=1e-4)


def test_a_pass_has_one_order_whatever_was_read_before():
    pytest.importorskip("trl")
    from aad_plugin.training.passes import PassSampler

    undisturbed, resumed = (PassSampler(range(7), 2, 3, 2, seed=5) for _ in range(2))
    passes = []
    for epoch in range(3):
        undisturbed.set_epoch(epoch)
        passes.append(list(undisturbed))
    resumed.set_epoch(2)
    assert list(resumed) == passes[2] and passes[1] != passes[2]
    assert list(PassSampler(range(7), 2, 3, 2, seed=5)) == passes[0], "the first is TRL's own"


def test_what_lm_eval_alone_reads_does_not_keep_a_pair_from_loading():
    given = {
        "policy": "a", "reference": "b", "dtype": "float32", "enable_thinking": False, "max_length": 2048, "batch_size": 4,
        "think_end_token": "</think>", "answers_dir": "none", "attn_implementation": "eager", "reference_dtype": "float32",
    }  # fmt: skip
    found = loading_args(given)
    assert set(given) - set(found) == {"max_length", "batch_size", "think_end_token", "answers_dir"}
    assert loading_args({"polcy": "a"}) == {"polcy": "a"}, "a typo is still refused by whoever loads"


@pytest.mark.parametrize("command", ["distill", "rl"])
def test_thinking_needs_its_end_before_anything_trains(aad, words, command):
    own = [word for word in words if word != "--keep-truncated"]
    place = own.index("--model-args") + 1
    own[place] += ",enable_thinking=true"
    if command == "rl":
        own[own.index("--recipe")] = "--training"
    own += ["--picker", "implicit"] if command == "distill" else ["--recipe", "grpo-implicit"]
    error = aad(command, *own).exception
    assert isinstance(error, ConfigError) and str(error).startswith("enable_thinking=true needs think_end_token (for ")


def test_a_templates_arguments_are_a_mapping(checkpoints):
    with pytest.raises(ConfigError, match="chat_template_args must be a mapping of the template's arguments, got 'x'"):
        load_pair(**checkpoints.model_args("two_models"), chat_template_args="x")
