"""Whole runs of `aad distill` and `aad rl` on pairs that are not the usual LoRA with a plain chat template."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.toys import toy_model
from tests.training.test_distill import TOY as DISTILL
from tests.training.test_prompt_rows import THINKING, with_template
from tests.training.test_rl import TOY as RL

pytestmark = pytest.mark.grid


@pytest.fixture(params=["bare", "thinking"])
def pair_words(request, tmp_path) -> list[str]:
    """Two checkpoints: "bare" has neither chat template nor padding token, "thinking" a template with a switch."""
    tokenizer = with_template(THINKING if request.param == "thinking" else None)
    for name, seed in (("policy", 4), ("reference", 5)):
        model = toy_model("llama", seed)
        if request.param == "bare":
            model.config.pad_token_id = model.generation_config.pad_token_id = None
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        if request.param == "bare":
            config = tmp_path / name / "tokenizer_config.json"
            kept = {key: value for key, value in json.loads(config.read_text()).items() if key != "pad_token"}
            config.write_text(json.dumps(kept))
    words = f"policy={tmp_path / 'policy'},reference={tmp_path / 'reference'},dtype=float32,device=cpu"
    # max_length, which only lm-eval's model reads, is what the commands tell users to raise.
    return [
        "--model-args",
        words + ",max_length=256" + (",enable_thinking=false" if request.param == "thinking" else ""),
    ]


def run(command, words, pair_words, tmp_path, recipe, *more):
    """One prompt in a batch of one."""
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": "Say one"}) + "\n")
    (tmp_path / "recipe.yaml").write_text(json.dumps({**recipe, "max_steps": 3, "save_steps": 2}))
    own = [word for word in words if word != "--keep-truncated"]
    own[own.index("--model-args") : own.index("--model-args") + 2] = pair_words
    place = own.index("--recipe")
    own[place : place + 2] = ["--training" if command == "rl" else "--recipe", str(tmp_path / "recipe.yaml")]
    own += ["--prompts", str(tmp_path / "one.jsonl"), *more]
    line = [sys.executable, "-m", "aad_plugin.cli", command, *own]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + (tmp_path / "out" / "training.log").read_text()[-4000:]
    return json.loads((tmp_path / "out" / f"{command}.json").read_text())


def loads(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_a_student_is_made(words, pair_words, tmp_path):
    recipe = {**DISTILL, "per_device_train_batch_size": 1}
    figures = run("distill", words, pair_words, tmp_path, recipe, "--picker", "implicit")
    assert figures["about"]["chosen_step"] in (2, 3)
    assert loads(tmp_path / "out" / "student").chat_template == (THINKING if "thinking" in pair_words[1] else None)


@pytest.mark.parametrize("recipe", ["grpo-implicit", "grpo-rollouts"])
def test_a_policy_is_optimised(words, pair_words, tmp_path, recipe):
    toy = {**RL, "per_device_train_batch_size": 4, "num_generations": 4}
    figures = run("rl", words, pair_words, tmp_path, toy, "--recipe", recipe)
    assert sum("loss" in entry for entry in figures["log"]) == 3
    loads(tmp_path / "out" / "policy")


@pytest.mark.parametrize("command", ["distill", "rl"])
def test_prompts_that_fill_no_batch_are_refused_before_training(words, tmp_path, command, aad):
    """TRL would make no step and say nothing."""
    recipe = DISTILL if command == "distill" else {**RL, "num_generations": 2}
    own = [word for word in words if word != "--keep-truncated"]
    (tmp_path / "recipe.yaml").write_text(json.dumps({**recipe, "gradient_accumulation_steps": 4}))
    place = own.index("--recipe")
    own[place : place + 2] = ["--training" if command == "rl" else "--recipe", str(tmp_path / "recipe.yaml")]
    own += ["--recipe", "grpo-implicit"] if command == "rl" else ["--picker", "implicit"]
    needed = 8 if command == "distill" else 16
    assert str(aad(command, *own).exception).startswith(
        f"--prompts holds 6 and one batch of this recipe takes {needed}, "
    )
