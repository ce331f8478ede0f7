"""One model learns a pair: what the teacher says in training, what is refused, and with real TRL what a kill costs."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from aad_plugin.decoding import eft_scores
from aad_plugin.errors import BackendMissing, ConfigError, VocabMismatch
from aad_plugin.pair.step import whole_text
from aad_plugin.settings import DecodingSettings
from aad_plugin.training import trl_command
from aad_plugin.training.owning import (
    refuse_counted_padding,
    refuse_cut_pairs,
    refuse_settings,
    with_secrets,
    without_secrets,
)
from aad_plugin.training.recipes import read_recipe
from aad_plugin.training.teachers import WideTeacher, aad_log_probs, divergence, positions_of, teacher_scores
from tests.pairs import KINDS, toy_pair
from tests.toys import byte_tokenizer, left_pad, random_prompts, toy_model

IDS, MASK = left_pad(random_prompts([9, 5, 12]))
TOY = {
    "learning_rate": 3e-3, "max_steps": 6, "per_device_train_batch_size": 2, "use_cpu": True, "bf16": False,
    "gradient_checkpointing": False, "max_completion_length": 6, "dtype": "float32", "logging_steps": 1,
    "save_steps": 3, "report_to": "none", "seed": 0,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_eft_teacher_says_in_training_what_eft_decodes(kind):
    pair = toy_pair(kind).pair
    teacher = WideTeacher(pair, 1.5, 258)
    with torch.no_grad():
        rows = pair.sides.logits(("policy", "reference"), whole_text(IDS, MASK))
        wanted = eft_scores(rows[0], rows[1], 1.5).log_softmax(-1)
        found = teacher(IDS, MASK).log_softmax(-1)
    assert torch.allclose(found[MASK.bool()], wanted[MASK.bool()], atol=1e-4)


def test_ids_that_only_the_student_has_get_no_mass():
    pair = toy_pair("two_models").pair
    found = WideTeacher(pair, 2.0, 260)(IDS, MASK).log_softmax(-1)
    assert found.shape[-1] == 260 and float(found[..., 258:].max()) < -1000


def test_a_head_that_is_not_all_of_the_logits_is_refused(monkeypatch):
    pair = toy_pair("two_models").pair
    head = pair.sides.policy.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: output.tanh())
    with pytest.raises(ConfigError, match="this pair's EFT is no one head over both hidden states"):
        WideTeacher(pair, 1.5, 258)


@pytest.mark.parametrize("kind", KINDS)
def test_the_aad_teacher_gives_decodings_scores_bit_for_bit(kind):
    pair = toy_pair(kind).pair
    settings = DecodingSettings(strategy="aad", alpha=0.2)
    with torch.no_grad():
        wanted = pair(IDS, MASK, positions_of(MASK), logits_to_keep=4, settings=settings).logits
    assert torch.equal(teacher_scores(pair, IDS, MASK, 4, 0.2), wanted)


def test_the_teachers_distribution_has_no_mass_outside_and_its_mode_is_aads_choice():
    scores = torch.tensor([[0.5, 0.1, -1000.2, -1003.0]])
    found = aad_log_probs(scores, 0.25).exp()
    # exp(0.5 / 0.25) : exp(0.1 / 0.25) = e² : e^0.4 → 0.8320 and 0.1680
    assert found[0].tolist() == pytest.approx([0.8320, 0.1680, 0.0, 0.0], abs=1e-4)


def test_divergences_by_hand():
    teacher = torch.tensor([[0.75, 0.25, 0.0]]).log()
    student = torch.tensor([[0.5, 0.25, 0.25]]).log()
    # forward KL: 0.75 · ln(0.75 / 0.5) + 0.25 · ln 1 = 0.3041
    assert divergence(teacher, student, 0.0).item() == pytest.approx(0.75 * math.log(1.5), abs=1e-6)
    # m = (0.625, 0.25, 0.125): ½ · 0.75 ln(0.75/0.625) + ½ · (0.5 ln(0.5/0.625) + 0.25 ln(0.25/0.125))
    wanted = 0.5 * 0.75 * math.log(1.2) + 0.5 * (0.5 * math.log(0.8) + 0.25 * math.log(2))
    assert divergence(teacher, student, 0.5).item() == pytest.approx(wanted, abs=1e-6)
    student.requires_grad_(True)
    divergence(teacher, student, 0.5).sum().backward()
    assert student.grad is not None and student.grad.isfinite().all()


@pytest.fixture
def distill_words(words, reward, checkpoints, tmp_path) -> list[str]:
    """Arguments of ``aad distill`` on toys."""
    (tmp_path / "distill.yaml").write_text(json.dumps(TOY))
    own = [word for word in words if word != "--keep-truncated"]
    own[own.index("--recipe") + 1] = str(tmp_path / "distill.yaml")
    return [*own, "--picker", "implicit"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--teacher", "dpo"], "--teacher must be aad or eft, got 'dpo'"),
        (["--divergence", "reverse-kl"], "--divergence reverse-kl is infinite for --teacher aad"),
        (["--divergence", "kl"], "--divergence must be one of forward-kl, jsd, reverse-kl, got 'kl'"),
        (["--teacher-temperature", "0"], "--teacher-temperature must be above 0, got 0"),
        (["--teacher", "eft", "--scale", "1"], "--teacher eft --scale 1 is the policy itself, which is the student"),
        (["--scale", "2"], "--teacher aad makes no use of --scale: leave it out"),
        (["--teacher", "eft", "--alpha", "0.2"], "--teacher eft makes no use of --alpha: leave it out"),
        (["--trl", "--chat-template-kwargs {}"], "chat_template_kwargs is read by TRL alone"),
        (["--trl", "--beta 0.5"], "beta is set by --divergence: leave it out of the recipe and of --trl"),
        (["--trl", "--model_revision old"], "model_revision is read by TRL alone"),
        (["--recipe", "distil"], "no recipe 'distil' (did you mean 'distill'?)"),
        (["--trl", "--output_dir x"], "--trl: --output_dir is set by aad distill itself; leave it out"),
        (["--alpha", "7"], "alpha must be a number in (0, 1], got 7.0"),
    ],
)
def test_mistakes_are_refused_first(aad, distill_words, more, message):
    assert str(aad("distill", *distill_words, *more).exception).startswith(message)


def test_what_chose_the_checkpoint_may_not_measure_it(aad, distill_words):
    oracle = distill_words[distill_words.index("--oracle") + 1]
    error = aad("distill", *distill_words, "--picker", oracle).exception
    assert "what chose the checkpoint cannot measure it" in str(error)


def test_training_prompts_may_not_be_the_oracles(aad, distill_words, tmp_path):
    error = aad("distill", *distill_words, "--oracle-prompts", tmp_path / "prompts.jsonl").exception
    assert str(error).startswith("--prompts and --oracle-prompts share 6 prompts")


def test_a_pair_without_its_reference_is_no_teacher(aad, distill_words, checkpoints):
    words = list(distill_words)
    words[words.index("--model-args") + 1] = f"policy={checkpoints.policy}"
    assert "was given without its reference" in str(aad("distill", *words).exception)


@pytest.mark.parametrize("command", ["distill", "rl"])
def test_a_policy_alone_with_guides_and_a_guided_pair_are_no_teachers(aad, distill_words, checkpoints, command):
    """Was: a policy alone was its own reference, whose every ratio is 1; guides were taken and not read."""
    words = list(distill_words)
    if command == "rl":
        words = words[: words.index("--picker")]
        at = words.index("--recipe")
        words[at : at + 2] = ["--recipe", "grpo-implicit", "--training", words[at + 1]]
    at = words.index("--model-args") + 1
    whole = words[at]
    words[at] = f"policy={checkpoints.policy},guide={checkpoints.reference}"
    assert "without its reference is no" in str(aad(command, *words).exception)
    words[at] = f"{whole},guide={checkpoints.reference}"
    assert "--guide is no part of" in str(aad(command, *words).exception)


def test_secrets_stand_in_no_job(monkeypatch):
    plain, variables = without_secrets({"pair": "demo", "token": "hf_secret", "proxies": {"https": "u:p@h"}})
    assert plain == {"pair": "demo"} and "hf_secret" not in " ".join(variables)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert with_secrets(plain) == {"pair": "demo", "token": "hf_secret", "proxies": {"https": "u:p@h"}}


def test_a_recipe_is_written_down_without_what_is_secret(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("max_steps: 3\nenv: {WANDB_API_KEY: secret}\n")
    assert read_recipe(path) == {"max_steps": 3, "env": ["WANDB_API_KEY"]}
    path.write_text("hub_token: hf_secret\n")
    with pytest.raises(ConfigError, match="holds hub_token") as caught:
        read_recipe(path)
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize("setting", ["datasets", "model_revision", "reward_model_name_or_path", "reward_funcs"])
def test_what_would_train_on_something_else_is_refused_in_recipes_too(tmp_path, setting):
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps({"max_steps": 3, setting: "x"}))
    with pytest.raises(ConfigError, match=f"^{setting} .*leave it out of the recipe and of --trl"):
        refuse_settings("dpo", path, ())
    path.write_text("max_steps: 3\n")
    refuse_settings("dpo", path, ("--seed", "1", "--beta", "0.2"))


def test_pairs_that_trl_would_cut_are_refused():
    tokenizer = byte_tokenizer()
    prompts = [[{"role": "user", "content": "a" * 50}]]
    refuse_cut_pairs(prompts, tokenizer, {}, 10, 100)
    with pytest.raises(ConfigError, match=r"prompt 1 of --prompts has \d+ tokens; with 60 .* exceeds max_length=100"):
        refuse_cut_pairs(prompts, tokenizer, {}, 60, 100)


@pytest.mark.parametrize(("kind", "refused"), [("gpt2", True), ("llama", False)])
def test_models_that_count_the_padding_are_refused_where_trl_tells_them_no_positions(tmp_path, kind, refused):
    toy_model(kind, 0).save_pretrained(tmp_path / kind)
    if not refused:
        refuse_counted_padding(str(tmp_path / kind))
        return
    with pytest.raises(ConfigError, match="is of type gpt2, whose learned positions TRL counts from the padding"):
        refuse_counted_padding(str(tmp_path / kind))


def test_a_student_of_another_vocabulary_is_refused(aad, distill_words, tmp_path):
    other = byte_tokenizer()
    other.add_tokens(["<new>"])
    backend = json.loads(other.backend_tokenizer.to_str())
    vocab = backend["model"]["vocab"]
    first, second = list(vocab)[:2]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    toy_model("llama", 9).save_pretrained(tmp_path / "other")
    byte_tokenizer().save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(backend))
    error = aad("distill", *distill_words, "--student", tmp_path / "other").exception
    assert isinstance(error, VocabMismatch) and "\n" not in str(error)
    assert str(error).startswith("pair and student must share one token→id map; 3 tokens differ, first '!': ")
    assert str(error).endswith(". Take a student with the tokenizer of the pair")


def test_the_policy_by_its_path_has_nothing_to_learn_either(aad, distill_words, checkpoints):
    words = list(distill_words)
    words[words.index("--model-args") + 1] = f"policy={checkpoints.policy},reference={checkpoints.reference}"
    error = aad("distill", *words, "--teacher", "eft", "--scale", "1", "--student", checkpoints.policy).exception
    assert str(error).startswith("--teacher eft --scale 1 is the policy itself, which is the student")


def test_other_weights_of_a_students_folder_are_another_question(distill_words, checkpoints, tmp_path):
    import shutil
    from dataclasses import replace

    from aad_plugin.texts.prompts import read_prompts
    from aad_plugin.training.distilling import Plan
    from aad_plugin.training.recipes import one_model_recipe

    shutil.copytree(checkpoints.policy, tmp_path / "student")
    sets = {}
    for name in ("prompts", "held_out", "oracle_prompts"):
        (tmp_path / f"{name}.txt").write_text(f"{name}?\n")
        sets[name] = read_prompts(str(tmp_path / f"{name}.txt"))
    plan = Plan(**sets, training=one_model_recipe("distill_demo"), oracle="reward:a", picker="reward:b",
                student=str(tmp_path / "student"))  # fmt: skip
    before = plan.asked({"policy": "p", "reference": "r"})
    shutil.copy(checkpoints.reference / "model.safetensors", tmp_path / "student" / "model.safetensors")
    assert plan.asked({"policy": "p", "reference": "r"}) != before
    assert "student_files" not in replace(plan, student="policy").asked({"policy": "p", "reference": "r"})


def test_a_student_that_is_not_there(aad, distill_words, tmp_path):
    error = aad("distill", *distill_words, "--student", tmp_path / "none").exception
    assert str(error).startswith(f"--student {tmp_path / 'none'}: no model with a tokenizer there: ")
    assert isinstance(error, ConfigError) and "\n" not in str(error)


def test_an_old_trl_is_named(aad, distill_words, monkeypatch):
    monkeypatch.setattr(trl_command.metadata, "version", lambda name: "1.4.0")
    error = aad("distill", *distill_words).exception
    assert isinstance(error, BackendMissing)
    assert str(error) == "this command needs TRL 1.16 or newer, found 1.4.0: pip install -U 'aad_plugin[train]'"


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"r": 16}, ""),
        ({"r": 64, "rank_pattern": None}, " --max-lora-rank 64"),
        ({"r": 8, "rank_pattern": {"k_proj": 40}}, " --max-lora-rank 64"),
    ],
)
def test_the_card_names_the_rank_that_vllm_must_allow(tmp_path, config, wanted):
    from aad_plugin.training.distilling import _max_rank

    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert _max_rank(tmp_path) == wanted


@pytest.mark.parametrize("keys", [(), ("logits_to_keep",)])
def test_a_student_learns_the_logits_it_decodes_with(keys):
    """Capped, in Gemma 2: a head over hidden states alone would leave the cap out."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from aad_plugin.training.distill_worker import AADDistillation

    sizes = {"vocab_size": 258, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    config = Gemma2Config(**sizes, num_attention_heads=2, num_key_value_heads=1, final_logit_softcapping=0.01)
    student, trainer = Gemma2ForCausalLM(config).eval(), AADDistillation.__new__(AADDistillation)
    trainer.model_kwarg_keys = keys
    found = trainer._student_logits(student, IDS, MASK, 3)
    assert found.abs().max() <= 0.01
    torch.testing.assert_close(found, student(input_ids=IDS, attention_mask=MASK).logits[:, -4:-1])


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["aad", "eft"])
def test_the_loss_falls_in_trls_trainer(tmp_path, teacher):
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    from aad_plugin.training.distill_worker import AADDistillation

    pair = toy_pair("two_models").pair
    given = {name: value for name, value in TOY.items() if name != "dtype"}
    config = DistillationConfig(
        output_dir=str(tmp_path), **{**given, "max_steps": 16, "save_strategy": "no", "beta": 0.0}
    )
    common = {
        "model": toy_model("llama", 6), "args": config, "processing_class": byte_tokenizer(),
        "train_dataset": Dataset.from_list([{"prompt": f"say {number}"} for number in range(8)]),
    }  # fmt: skip
    if teacher == "aad":
        trainer = AADDistillation(pair=pair, alpha=0.1, teacher_temperature=0.5, **common)
    else:
        trainer = DistillationTrainer(teacher_model=WideTeacher(pair, 2.0, 258), **common)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4]) and all(math.isfinite(loss) for loss in losses)


def command(words, *more):
    return [sys.executable, "-c", "from aad_plugin.cli.main import run; run()", "distill", *map(str, words), *more]


def with_output(words, folder):
    words = list(words)
    words[words.index("--output") + 1] = str(folder)
    return words


@pytest.mark.grid
def test_kill_9_goes_on_from_the_last_checkpoint_and_the_student_is_an_ordinary_adapter(distill_words, tmp_path):
    """The very student of an undisturbed run; it loads as a pair's policy and, alone, in plain PEFT."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from aad_plugin.pair.model import load_pair

    steps = ["--trl", "--max_steps 24"]
    assert (
        subprocess.run(command(with_output(distill_words, tmp_path / "whole"), *steps), capture_output=True).returncode
        == 0
    )
    process = subprocess.Popen(command(distill_words, *steps), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    training = tmp_path / "out" / "training"
    while process.poll() is None and not (training / "checkpoint-6" / "trainer_state.json").is_file():
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = subprocess.run(command(distill_words, *steps), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    log = (tmp_path / "out" / "training.log").read_text()
    assert log.count("\n$ ") == 2 and "--resume_from_checkpoint" in log.split("\n$ ")[2].splitlines()[0]
    one, two = (load_file(tmp_path / run / "student" / "adapter_model.safetensors") for run in ("whole", "out"))
    assert all(one[name].equal(two[name]) for name in one)
    figures = json.loads((tmp_path / "out" / "distill.json").read_text())
    losses = [entry["loss"] for entry in figures["log"] if "loss" in entry]
    assert len(losses) == 24 and sum(losses[-6:]) < sum(losses[:6])
    card = (tmp_path / "out" / "student" / "README.md").read_text()
    assert "alignment-aware decoding, alpha 0.1" in card and "--adapter <this folder>" in card
    base = json.loads((tmp_path / "out" / "student" / "adapter_config.json").read_text())["base_model_name_or_path"]
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out" / "student").eval()
    pair = load_pair(reference=base, adapter=str(tmp_path / "out" / "student"))
    asked = {"input_ids": IDS, "attention_mask": MASK, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 257}
    assert torch.equal(plain.generate(**asked), pair.generate(**asked, strategy="greedy"))


@pytest.mark.grid
@pytest.mark.parametrize("more", [["--teacher", "eft", "--scale", "2"], ["--divergence", "jsd"]], ids=["eft", "jsd"])
def test_whole_weights_learn_and_load_as_a_checkpoint(distill_words, tmp_path, more):
    from transformers import AutoModelForCausalLM

    steps = ["--trl", "--max_steps 12 --learning_rate 3e-4", "--student", "weights", *more]
    done = subprocess.run(command(distill_words, *steps), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads((Path(tmp_path) / "out" / "distill.json").read_text())
    losses = [entry["loss"] for entry in figures["log"] if "loss" in entry]
    assert sum(losses[-4:]) < sum(losses[:4])
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "student")
