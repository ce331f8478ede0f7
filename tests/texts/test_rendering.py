"""Chat templates that take no system turn, or no two user turns, or that an adapter's tokenizer does not have."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
from jinja2.exceptions import TemplateError

from aad_plugin.errors import ConfigError
from aad_plugin.harness.model import AADLM
from aad_plugin.judges.kinds.spelling import Speller
from aad_plugin.pair.answering import answer
from aad_plugin.pair.model import load_pair
from aad_plugin.texts import rendering
from tests.toys import CHAT, byte_tokenizer

NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
DEAF = CHAT.replace("<{{ m['role'] }}>", "{% if m['role'] != 'system' %}<{{ m['role'] }}>").replace(
    "{{ m['content'] }}", "{{ m['content'] }}{% endif %}"
)
SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a tree."}
MOVED = [{"role": "user", "content": "Be brief.\n\nName a tree."}]


@pytest.fixture(autouse=True)
def not_yet_said():
    rendering._say_once.cache_clear()


@pytest.fixture
def pair(checkpoints):
    return load_pair(**checkpoints.model_args("two_models"))


@pytest.mark.parametrize("template", [NO_SYSTEM, DEAF], ids=["refuses", "leaves it out"])
def test_a_system_turn_opens_the_users_where_the_template_takes_none(pair, template, caplog):
    pair.tokenizer.chat_template = template
    got = answer(pair, [[SYSTEM, USER]] * 2, max_new_tokens=8)
    assert got == answer(pair, [MOVED] * 2, max_new_tokens=8)
    assert caplog.text.count("takes no system turn") == 1


def test_a_template_with_a_system_turn_is_left_alone(pair):
    rendered = pair.tokenizer.apply_chat_template([SYSTEM, USER], tokenize=False, add_generation_prompt=True)
    assert rendered.startswith("<system>Be brief.<user>")
    assert answer(pair, [[SYSTEM, USER]], max_new_tokens=8) == answer(pair, [rendered], chat=False, max_new_tokens=8)


@pytest.mark.parametrize("template", [NO_SYSTEM, DEAF], ids=["refuses", "leaves it out"])
def test_lm_evals_model_does_not_drop_it_either(checkpoints, template, caplog):
    model = AADLM(**checkpoints.model_args("two_models"), device="cpu")
    model.tokenizer.chat_template = template
    assert model.apply_chat_template([SYSTEM, USER]) == model.apply_chat_template(MOVED)
    assert "Be brief." in model.apply_chat_template([SYSTEM, USER])
    assert "removing the system role" not in caplog.text


def test_what_cannot_be_rendered_is_named(pair):
    pair.tokenizer.chat_template = NO_SYSTEM
    with pytest.raises(
        ConfigError, match=r"prompt 2: .*takes no such conversation \(user, user\): roles must alternate"
    ):
        answer(pair, ["fine", [USER, USER]])


def in_parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def shows(turns) -> str:
    """A template of parts that leaves out system turns."""
    turns = [turn for turn in turns if turn["role"] != "system"]
    return "".join(f"<{turn['role']}>" + "".join(part.get("text", "<p>") for part in turn["content"]) for turn in turns)


@pytest.mark.parametrize("system", ["Be brief.", in_parts("Be brief."), in_parts("Be", " brief.")])
def test_a_system_turn_beside_parts_opens_the_users(system):
    """Beside a picture an ignored system turn was lost, and a refused one ended the run."""
    turns = [
        {"role": "system", "content": system},
        {"role": "user", "content": [{"type": "image"}, *in_parts("What?")]},
    ]
    assert rendering.render_chat(shows, turns, "here") == "<user>Be brief.\n\n<p>What?"

    def refuses(turns):
        if turns[0]["role"] == "system":
            raise TemplateError("no system turn")
        return shows(turns)

    assert rendering.render_chat(refuses, turns, "here") == "<user>Be brief.\n\n<p>What?"


def test_a_template_that_reads_a_system_turns_first_part_alone_is_left_alone():
    def first_part(turns):
        return f"[{turns[0]['content'][0]['text']}]{shows(turns)}"

    turns = [{"role": "system", "content": in_parts("Be", "brief")}, {"role": "user", "content": in_parts("What?")}]
    assert rendering.settled(first_part, turns, "here") == turns


def test_a_local_judge_reads_its_system_part_in_the_users_turn():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    speller = Speller(tokenizer)
    for user in (USER, {"role": "user", "content": "Rate <eos> this."}):
        text = "".join(piece for piece, _ in speller.conversation([SYSTEM, user], add_generation_prompt=True))
        assert text == f"<user>Be brief.\n\n{user['content']}<assistant>"
    with pytest.raises(ConfigError, match="a prompt of this judge"):
        speller.conversation([USER, USER])


def test_synthesize_names_the_row(aad, checkpoints, tmp_path):
    policy = shutil.copytree(checkpoints.policy, tmp_path / "policy")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    tokenizer.save_pretrained(policy)
    rows = [[USER], [SYSTEM, USER], [USER, USER]]
    prompts = tmp_path / "prompts.jsonl"
    args = f"policy={policy},reference={checkpoints.reference},dtype=float32,device=cpu"

    def run(count, name):
        prompts.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows[:count]))
        return aad("synthesize", "--model-args", args, "--prompts", prompts, "--output", tmp_path / name,
                   "--max-new-tokens", "6", "--keep-truncated")  # fmt: skip

    assert run(2, "fine").exit_code == 0
    refused = run(3, "refused")
    assert refused.exit_code != 0 and "prompt 3" in str(refused.output) + str(refused.exception)


@pytest.fixture
def bare_adapter(checkpoints, tmp_path):
    """An adapter folder with a tokenizer that has lost its template; the base has one."""
    folder = shutil.copytree(checkpoints.adapter, tmp_path / "adapter")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return {"reference": str(checkpoints.base), "adapter": str(folder)}


def test_an_adapters_tokenizer_without_a_template_takes_the_bases(bare_adapter, checkpoints, caplog):
    pair = load_pair(**bare_adapter)
    plain = load_pair(**checkpoints.model_args("reference_plus_lora"))
    assert pair.tokenizer.chat_template == plain.tokenizer.chat_template
    assert answer(pair, ["Name a tree."], max_new_tokens=8) == answer(plain, ["Name a tree."], max_new_tokens=8)
    assert caplog.text.count("has no chat template: its base's") == 1
    with caplog.at_level(logging.WARNING):
        assert AADLM(**bare_adapter, device="cpu").tokenizer.chat_template == plain.tokenizer.chat_template
