"""``aad study`` given something wrong: one line, before any weight is loaded where that is possible."""

from __future__ import annotations

import json

import pytest

from aad_plugin.errors import ConfigError, VocabMismatch
from aad_plugin.study.known_prompts import training_overlaps
from aad_plugin.study.prompts import read_prompts
from tests.study.conftest import aad, arguments, toy_reward
from tests.toys import byte_tokenizer, toy_model


def refused(tmp_path, inputs, **options):
    done = aad(*arguments(tmp_path / "out", **inputs.options(**options)))
    assert isinstance(done.exception, ConfigError), (done.output, done.exception)
    return str(done.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": None}, "a study needs --prompts FILE and --oracle reward:<model> (or --tables-only)"),
        ({"oracle": None}, "a study needs --prompts FILE and --oracle reward:<model> (or --tables-only)"),
        ({"oracle": "openai:gpt"}, "oracle must be reward:<model> (a folder, a hub id or demo), got 'openai:gpt'"),
        ({"picker": "me"}, "picker must be 'implicit' or 'reward:<model>', got 'me'"),
        ({"seeds": "1,2"}, "sampled rows need at least 3 different seeds, got [1, 2]"),
        ({"seeds": "1,2,2"}, "sampled rows need at least 3 different seeds, got [1, 2]"),
        ({"seeds": "a,b,c"}, "--seeds must be numbers separated by commas, such as 1,2,3, got 'a,b,c'"),
        ({"seeds": "1,2,-3"}, "seed must be a whole number of at least 0, got -3"),
        ({"alphas": "0.1,2"}, "alpha must be a number in (0, 1], got 2.0"),
        ({"alphas": "0.1;0.2"}, "--alphas must be numbers separated by commas, such as 0.1,0.2, got '0.1;0.2'"),
        ({"eft_scales": "-1"}, "eft_scale must be a number at least 0, got -1.0"),
        ({"num_prompts": 200}, "200 prompts for the table and 4 for the dev split are needed, the file has 14 distinct "
         "ones: pass more, or lower --num-prompts or --num-dev"),
        ({"num_prompts": 1}, "--num-prompts must be at least 2 and --num-dev at least 0, got 1 and 4"),
        ({"num_dev": -1}, "--num-prompts must be at least 2 and --num-dev at least 0, got 8 and -1"),
        ({"num_curve": 9}, "num_curve and num_extra take prompts of the table, which has 8; got 9 and 5"),
        ({"samples": 1}, "the best_of_N curve needs at least 2 samples per prompt, got 1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"model_args": "pair=demo,alpha=0.2"}, "a study sets the decoding itself: leave alpha out of --model-args (see "
         "aad study --help)"),
        ({"num_beams": -1}, "num_beams must be at least 0, got -1"),
        ({"wrong_reference": "/no/such/model"}, None),
    ],
)  # fmt: skip
def test_options(tmp_path, inputs, options, message):
    said = refused(tmp_path, inputs, **options)
    assert said == message if message else said.startswith("cannot load the wrong reference '/no/such/model': ")
    assert not (tmp_path / "out" / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "p.jsonl",
            '{"prompt": "a"}\n{"prompt": " "}\n',
            "line 2: this prompt has no text; every row needs some to answer",
        ),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "line 2: no field messages, prompt, instruction"),
        ("p.jsonl", '{"messages": []}\n', "line 1"),
        ("p.jsonl", '{"prompt": "a"\n', "line 1"),
        ("p.json", '[{"instruction": "a"}, {"instruction": ""}]', "this prompt has no text"),
        ("p.txt", "\n\n", "holds no prompts"),
        ("p.jsonl", '{"prompt": "\\ud800"}\n', "half a surrogate pair"),
    ],
)
def test_prompt_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_prompts(str(tmp_path / name))
    assert message in str(caught.value) and str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prompt_files_that_are_fine(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = [{"prompt": "x"}, {"instruction": "y", "output": "z"}, {"prompt": " x "}, {"messages": turns}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_prompts(str(tmp_path / "p.jsonl")) == ["x", "y", turns]
    (tmp_path / "p.json").write_text(json.dumps(rows[:2]))
    assert read_prompts(str(tmp_path / "p.json")) == ["x", "y"]


def test_a_missing_prompt_file_and_a_file_for_output(tmp_path, inputs):
    missing = tmp_path / "none.txt"
    assert refused(tmp_path, inputs, prompts=missing) == f"no prompt file or dataset folder '{missing}' here"
    (tmp_path / "file").write_text("x")
    done = aad(*arguments(tmp_path / "file", **inputs.options()))
    assert str(done.exception) == f"--output {tmp_path / 'file'} is a file, expected a folder"


def test_tables_of_no_study(tmp_path):
    done = aad("study", "--output", str(tmp_path), "--tables-only")
    assert str(done.exception) == (
        f"{tmp_path} holds no study: expected plan.json there (aad study --output {tmp_path} … makes one)"
    )
    (tmp_path / "plan.json").write_text("{}")
    done = aad("study", "--output", str(tmp_path), "--tables-only")
    assert isinstance(done.exception, ConfigError) and "is not a study's plan" in str(done.exception)


def test_a_prompt_without_room_is_named(tmp_path, inputs):
    (tmp_path / "long.txt").write_text("\n".join(["x" * 600, *(f"short {number}" for number in range(13))]))
    said = refused(tmp_path, inputs, prompts=tmp_path / "long.txt", num_prompts=10)
    assert "of the study has 6" in said and said.endswith(
        "exceeds the context of 512: shorten it or lower max_new_tokens"
    )
    assert not (tmp_path / "out" / "rows.jsonl").exists()


def test_a_wrong_reference_of_another_vocabulary(tmp_path, inputs):
    toy_model("llama", 3).save_pretrained(tmp_path / "other")
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "other")
    done = aad(*arguments(tmp_path / "out", **inputs.options(wrong_reference=tmp_path / "other")))
    assert isinstance(done.exception, VocabMismatch) and "1 tokens differ, first '<new>'" in str(done.exception)


def test_an_oracle_without_finite_rewards(tmp_path, inputs):
    import torch
    from safetensors.torch import load_file, save_file

    folder = toy_reward(tmp_path / "reward")
    weights = load_file(f"{folder}/model.safetensors")
    weights["score.weight"] = torch.full_like(weights["score.weight"], torch.nan)
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    done = aad(*arguments(tmp_path / "out", **inputs.options(oracle=f"reward:{folder}")))
    assert str(done.exception).startswith(f"reward:{folder} gave nan for the answer ")
    assert str(done.exception).endswith("no usable reward")
    assert (tmp_path / "out" / "rows.jsonl").stat().st_size > 0  # what was decoded is kept


def test_prompts_the_demo_oracle_was_trained_on_are_told(tmp_path):
    seen = "I only have potatoes, onions and milk. What can I cook?"
    names = {"oracle": "reward:demo", "picker": "implicit", "pair": "demo"}
    (warning,) = training_overlaps([seen, "Quite another question?"], names, [])
    assert warning == (
        f'the oracle (reward:demo) was trained on 1 of the study\'s 2 prompts, first "{seen}": its rewards there are no '
        "test; take them out of --prompts"
    )
    assert training_overlaps(["Quite another question?"], names, []) == []
    (warning,) = training_overlaps([seen], {**names, "oracle": "reward:demo@1"}, [])
    assert warning.startswith("the oracle (reward:demo@1) was trained on 1 of the study's 1 prompts")


def test_prompts_of_a_named_training_file_are_told(tmp_path, inputs):
    file = tmp_path / "trained.jsonl"
    file.write_text(
        json.dumps({"prompt": "Question 3: why so? why so? why so? why so? ", "chosen": "a", "rejected": "b"})
    )
    done = aad(
        *arguments(tmp_path / "out", **inputs.options(trained_on=file, oracle="reward:/no/such", num_prompts=10))
    )
    assert f"warning: {file} holds 1 of the study's 14 prompts, first " in done.stderr
    assert isinstance(done.exception, ConfigError)


def test_options_of_another_form_are_refused(tmp_path, inputs):
    assert refused(tmp_path, inputs, preferences="x.jsonl").startswith("--preferences belongs to --pairs")
    said = refused(tmp_path, inputs, pairs="a=b", seeds="4,5,6")
    assert (
        said.startswith("aad study --pairs, which compares AAD and greedy of each, makes no use of")
        and "--seeds" in said
    )
