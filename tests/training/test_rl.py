"""A policy optimised with its pair: rewards, the correction for who drew what, what is refused, and what a kill costs."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from aad_plugin.errors import BackendMissing, ConfigError
from aad_plugin.pair.step import Step
from aad_plugin.training import implicit_reward as rewards
from aad_plugin.training import owning, trl_command
from aad_plugin.training.implicit_reward import answer_rewards
from aad_plugin.training.teachers import aad_log_probs, teacher_scores
from tests.documents.reading import ROOT, commands
from tests.pairs import toy_pair

TOY = {
    "learning_rate": 5e-3, "lr_scheduler_type": "constant", "max_steps": 24, "per_device_train_batch_size": 8,
    "num_generations": 4, "max_completion_length": 6, "beta": 0.02, "use_cpu": True, "bf16": False, "dtype": "float32",
    "gradient_checkpointing": False, "use_peft": True, "lora_r": 8, "lora_target_modules": ["q_proj", "v_proj", "o_proj"],
    "logging_steps": 1, "save_steps": 4, "save_total_limit": 2, "report_to": "none", "seed": 0,
}  # fmt: skip


def naive(pair, prompt: str, answer: list[int]) -> float:
    """Σ log π_policy − log π_reference, token by token without padding."""
    text = pair.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    ids, total = pair.tokenizer(text, add_special_tokens=False)["input_ids"], 0.0
    for token in answer:
        rows = pair.sides.logits(("policy", "reference"), Step(torch.tensor([ids]), keep=1))
        total += sum(sign * float(row[0, -1].log_softmax(-1)[token]) for sign, row in zip((1, -1), rows, strict=True))
        ids = [*ids, token]
    return total


def test_rewards_are_sequence_log_ratios_whatever_stands_beside_them_in_a_batch():
    pair = toy_pair("reference_plus_lora").pair
    prompts = ["one", "a longer prompt", "x"]
    answers = [[72, 101, 256], [72], [1, 2, 3, 4, 5]]
    with torch.no_grad():
        wanted = [naive(pair, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    found = answer_rewards(pair, chats, answers)
    assert [total for total, _ in found] == pytest.approx(wanted, abs=1e-4)
    assert [length for _, length in found] == [3, 1, 5]


def test_the_reward_function_reads_its_pair_from_the_environment(checkpoints, monkeypatch):
    rewards._pair.cache_clear()
    monkeypatch.setenv(rewards.VARIABLE, "demo")
    with pytest.raises(ConfigError, match=r"set AAD_REWARD_PAIR to model_args as a JSON object.*got 'demo'"):
        rewards.implicit_reward([[{"role": "user", "content": "x"}]], [[1]])
    monkeypatch.setenv(rewards.VARIABLE, json.dumps(checkpoints.model_args("two_models")))
    asked = {
        "prompts": [[{"role": "user", "content": "x"}]],
        "completions": ["unused"],
        "completion_ids": [[1, 2, 3, 4]],
    }
    (whole,), (each,) = rewards.implicit_reward(**asked), rewards.implicit_reward_per_token(**asked)
    assert each == pytest.approx(whole / 4)
    rewards._pair.cache_clear()


def test_what_the_pair_draws_comes_with_the_probability_it_was_drawn_with():
    from aad_plugin.training.rollouts import draw_from_pair

    torch.manual_seed(0)
    pair = toy_pair("two_models").pair
    prompts = [[{"role": "user", "content": text}] for text in ("one", "a longer prompt")]
    drawn = draw_from_pair(pair, prompts, 5, alpha=0.1, temperature=0.5)
    for prompt, (ids, known) in zip(prompts, drawn, strict=True):
        text = pair.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        whole = torch.tensor([[*pair.tokenizer(text, add_special_tokens=False)["input_ids"], *ids]])
        scores = teacher_scores(pair, whole, torch.ones_like(whole), len(ids) + 1, 0.1)[0, :-1]
        wanted = aad_log_probs(scores, 0.5).gather(-1, torch.tensor(ids)[:, None])[:, 0]
        assert known == pytest.approx(wanted.tolist(), abs=1e-4) and max(known) <= 0 and len(ids) <= 5


@pytest.fixture
def trainer(tmp_path):
    """A real trainer over a toy, whose policy is three logits per position: ``theta``, a parameter."""
    from datasets import Dataset
    from trl import GRPOConfig

    from aad_plugin.training.rollouts import MixedGroups
    from tests.toys import byte_tokenizer, toy_model

    config = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=2, num_generations=2, max_completion_length=2, use_cpu=True,
        bf16=False, report_to="none", beta=0.0, loss_type="grpo", gradient_checkpointing=False,
    )  # fmt: skip
    made = MixedGroups(
        model=toy_model("llama", 4), reward_funcs=[lambda completions, **_: [0.0] * len(completions)], args=config,
        train_dataset=Dataset.from_list([{"prompt": "x"}] * 2), processing_class=byte_tokenizer(),
    )  # fmt: skip
    made.current_gradient_accumulation_steps = 1
    return made


def test_the_gradient_is_the_hand_worked_one(trainer, monkeypatch):
    """One answer of the policy's, one of the pair's, of one token each; advantages 1.

    Logits 0, so π = (1/3, 1/3, 1/3). The policy drew token 0: ratio 1, and d log π_0 = (2/3, −1/3, −1/3). The pair drew
    token 1 with probability 0.8: ratio (1/3) / 0.8 = 5/12, not clipped for an advantage above 0, so its gradient is
    5/12 · (−1/3, 2/3, −1/3). The loss is minus the mean of both answers.
    """
    from aad_plugin.training.rollouts import drawn_with

    theta = torch.zeros(2, 1, 3, requires_grad=True)
    ids = torch.tensor([[0], [1]])

    def logps(*_, compute_entropy=False, **__):
        found = theta.log_softmax(-1)
        own = found.gather(-1, ids[..., None]).squeeze(-1)
        return own, -(found.exp() * found).sum(-1) if compute_entropy else None, None

    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", logps)
    known = torch.tensor([[math.nan], [math.log(0.8)]])
    ones = torch.ones(2, 1, dtype=torch.long)
    inputs = {
        "prompt_ids": ones, "prompt_mask": ones, "completion_ids": ids, "completion_mask": ones,
        "advantages": torch.ones(2), "old_per_token_logps": drawn_with(known, logps()[0].detach()),
        "num_items_in_batch": torch.tensor(2.0),
    }  # fmt: skip
    trainer.model.train()
    trainer._compute_loss(trainer.model, inputs).backward()
    assert theta.grad is not None
    assert theta.grad[0, 0].tolist() == pytest.approx([-1 / 3, 1 / 6, 1 / 6], abs=1e-6)
    assert theta.grad[1, 0].tolist() == pytest.approx([5 / 72, -10 / 72, 5 / 72], abs=1e-6)
    # An answer of the pair that is worse than its group: the ratio 5/12 lies below 1 − ε, where GRPO's clipping ends the
    # push away from it.
    theta.grad = None
    trainer._compute_loss(trainer.model, {**inputs, "advantages": torch.tensor([1.0, -1.0])}).backward()
    assert theta.grad[1, 0].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


def test_a_drawn_token_that_is_read_outside_the_set_has_no_probability_of_its_own(monkeypatch):
    from aad_plugin.training import rollouts

    pair = toy_pair("two_models").pair
    monkeypatch.setattr(rollouts, "aad_log_probs", lambda scores, _: torch.full_like(scores, -torch.inf))
    ((ids, known),) = rollouts.draw_from_pair(pair, ["ab"], 3, alpha=0.1, temperature=0.5)
    assert len(ids) == len(known) and all(math.isnan(one) for one in known)
    own = torch.zeros(1, len(ids))
    assert torch.equal(rollouts.drawn_with(torch.tensor([known]), own), own)


def test_groups_are_mixed_and_their_old_probabilities_set(trainer):
    from aad_plugin.training.rollouts import mixed_rollouts

    pair = toy_pair("two_models").pair
    trainer.rollout_func = mixed_rollouts(pair, number=1, alpha=0.1, temperature=0.5)
    trainer.model.train()
    torch.manual_seed(0)
    found = trainer._generate_and_score_completions([{"prompt": "ab"}, {"prompt": "ab"}])
    kept = found["completion_mask"].bool()
    assert found["old_per_token_logps"][kept].isfinite().all()
    known = found["sampling_per_token_logps"]
    assert known[0][kept[0]].isfinite().all() and known[1][kept[1]].isnan().all()
    assert torch.equal(found["old_per_token_logps"][0][kept[0]], known[0][kept[0]])


@pytest.mark.grid
@pytest.mark.parametrize("share", [0, 2])
def test_the_implicit_reward_rises_in_trls_trainer(tmp_path, share):
    """Three seeds; answers drawn for prompts of the same kind that were not trained on, 192 of them."""
    from datasets import Dataset
    from trl import GRPOConfig

    from aad_plugin.training.rollouts import MixedGroups, mixed_rollouts
    from tests.toys import EOS, PAD, byte_tokenizer, left_pad, toy_model

    pair = toy_pair("two_models").pair
    held_out = [list(f"say {number}".encode()) for number in range(16, 40)] * 8
    ids, mask = left_pad(held_out)

    def reward(prompts, completion_ids, **_):
        return [total for total, _ in answer_rewards(pair, prompts, completion_ids)]

    def held_out_reward(model):
        torch.manual_seed(0)
        tokens = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=True, top_k=0, pad_token_id=PAD
        )
        rows = [row[: row.index(EOS) + 1] if EOS in row else row for row in tokens[:, ids.shape[1] :].tolist()]
        texts = [bytes(prompt).decode() for prompt in held_out]
        return sum(total for total, _ in answer_rewards(pair, texts, rows)) / len(rows)

    given = {name: value for name, value in TOY.items() if name not in ("dtype", "use_peft") and "lora" not in name}
    start = toy_model("llama", 4)  # the weights of this pair's policy
    start.save_pretrained(tmp_path / "start")  # TRL loads it once more, for the KL
    before = held_out_reward(start)
    for seed in (1, 2, 3):
        options = {
            **given, "max_steps": 40, "learning_rate": 3e-4, "seed": seed, "save_strategy": "no", "beta": 0.01,
            "per_device_train_batch_size": 32, "num_generations": 8,
        }  # fmt: skip
        trainer = MixedGroups(
            model=str(tmp_path / "start"), reward_funcs=[reward], args=GRPOConfig(output_dir=str(tmp_path), **options),
            train_dataset=Dataset.from_list([{"prompt": f"say {number}"} for number in range(16)]),
            processing_class=byte_tokenizer(), rollout_func=mixed_rollouts(pair, number=share, alpha=0.1, temperature=0.5),
        )  # fmt: skip
        trainer.train()
        logged = [entry for entry in trainer.state.log_history if "reward" in entry]
        assert {"reward", "kl", "completions/mean_length"} <= set(logged[0])
        after = held_out_reward(trainer.model.eval())
        assert after > before, (seed, before, after)


@pytest.fixture
def rl_words(words, tmp_path) -> list[str]:
    """Arguments of ``aad rl`` on toys, without the recipe."""
    (tmp_path / "rl.yaml").write_text(json.dumps(TOY))
    own = [word for word in words if word != "--keep-truncated"]
    place = own.index("--recipe")
    return [*own[:place], *own[place + 2 :], "--training", str(tmp_path / "rl.yaml")]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--recipe", "ppo"], "--recipe must be one of grpo-implicit, rloo-implicit, grpo-rollouts, got 'ppo'"),
        (
            ["--recipe", "grpo-implicit", "--share", "0.5"],
            "--share 0.5: TRL corrects for answers that others drew only",
        ),
        (["--recipe", "grpo-rollouts", "--share", "1"], "--share of grpo-rollouts must be above 0 and below 1, got 1"),
        (["--recipe", "grpo-implicit", "--reward", "reward:x"], "--reward must be implicit, or with grpo-rollouts"),
        (["--recipe", "grpo-rollouts", "--teacher-temperature", "-1"], "--teacher-temperature must be above 0, got -1"),
        (
            ["--recipe", "grpo-implicit", "--alpha", "0.3"],
            "--recipe grpo-implicit makes no use of --alpha, which is of",
        ),
        (["--recipe", "grpo-implicit", "--training", "gpro"], "no recipe 'gpro' (did you mean 'grpo'?)"),
        (["--recipe", "grpo-implicit", "--trl", "--config x"], "--trl: --config is set by aad rl itself; leave it out"),
    ],
)
def test_mistakes_are_refused_first(aad, rl_words, more, message):
    assert str(aad("rl", *rl_words, *more).exception).startswith(message)


def test_training_prompts_may_not_be_the_oracles(aad, rl_words, tmp_path):
    error = aad("rl", *rl_words, "--recipe", "grpo-implicit", "--oracle-prompts", tmp_path / "prompts.jsonl").exception
    assert str(error).startswith("--prompts and --oracle-prompts share 6 prompts")


def test_a_pair_without_its_reference_rewards_nothing(aad, rl_words, checkpoints):
    words = list(rl_words)
    words[words.index("--model-args") + 1] = f"policy={checkpoints.policy}"
    assert "was given without its reference" in str(aad("rl", *words, "--recipe", "grpo-implicit").exception)


def test_an_old_trl_is_named(aad, rl_words, monkeypatch):
    monkeypatch.setattr(trl_command.metadata, "version", lambda name: "1.4.0")
    error = aad("rl", *rl_words, "--recipe", "grpo-implicit").exception
    assert isinstance(error, BackendMissing) and str(error).startswith(
        "this command needs TRL 1.16 or newer, found 1.4.0"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"needed": 8}, "--prompts holds 6 and one batch of this recipe takes 8, so that TRL would train on none: "),
        (
            {"more": ["--trl", "--chat_template_kwargs={}"]},
            "chat_template_kwargs is read by TRL alone: pass --model-args enable_thinking=false",
        ),
    ],
)
def test_prompts_that_train_nothing_and_templates_that_trl_alone_reads(aad, rl_words, monkeypatch, given, message):
    monkeypatch.setattr(owning, "check_options", lambda *_: trl_command.Drawn(given.get("needed")))
    error = aad("rl", *rl_words, "--recipe", "grpo-implicit", *given.get("more", [])).exception
    assert isinstance(error, ConfigError) and str(error).startswith(message) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("option", "changed"),
    [
        ("temperature", 0.7),
        ("min_p", 0.2),
        ("repetition_penalty", 1.3),
        ("generation_kwargs", {"no_repeat_ngram_size": 3}),
    ],
)
def test_mixed_groups_are_drawn_as_they_are(option, changed):
    from trl import GRPOConfig

    from aad_plugin.training.rl_worker import _check

    plain = GRPOConfig(output_dir="x", use_cpu=True, bf16=False, report_to="none")
    _check(plain)
    setattr(plain, option, changed)
    with pytest.raises(ConfigError, match=f"answers drawn as they are: leave {option} out"):
        _check(plain)


def test_what_is_optimised_cannot_measure_itself(aad, rl_words):
    oracle = rl_words[rl_words.index("--oracle") + 1]
    error = aad("rl", *rl_words, "--recipe", "grpo-rollouts", "--reward", oracle).exception
    assert "what is optimised cannot measure itself" in str(error)


def command(words, *more):
    return [sys.executable, "-c", "from aad_plugin.cli.main import run; run()", "rl", *map(str, words), *more]


def with_output(words, folder):
    words = list(words)
    words[words.index("--output") + 1] = str(folder)
    return words


@pytest.mark.grid
@pytest.mark.parametrize(
    "asked",
    [["--recipe", "grpo-rollouts", "--share", "0.5"], ["--recipe", "grpo-implicit"]],
    ids=["our process", "trl's command"],
)
def test_kill_9_goes_on_from_the_last_checkpoint(rl_words, tmp_path, asked):
    """The answers and the adapter of an undisturbed run; reward, KL and length stand in the log.

    TRL's command shuffles anew after a kill, so that its run is undisturbed within the first pass over the prompts alone.
    """
    from safetensors.torch import load_file

    if "grpo-implicit" in asked:
        rows = [json.dumps({"prompt": f"Say {number} of many"}) + "\n" for number in range(2 * TOY["max_steps"])]
        (tmp_path / "prompts.jsonl").write_text("".join(rows))
    undisturbed = subprocess.run(
        command(with_output(rl_words, tmp_path / "whole"), *asked), capture_output=True, text=True
    )
    assert undisturbed.returncode == 0, undisturbed.stderr
    process = subprocess.Popen(command(rl_words, *asked), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    training = tmp_path / "out" / "training"
    while process.poll() is None and not (training / "checkpoint-4" / "trainer_state.json").is_file():
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = subprocess.run(command(rl_words, *asked), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert (
        "--resume_from_checkpoint" in (tmp_path / "out" / "training.log").read_text().split("\n$ ")[2].splitlines()[0]
    )
    one, two = (load_file(tmp_path / run / "training" / "adapter_model.safetensors") for run in ("whole", "out"))
    # In TRL's command a process sums in an order of its own, and Adam makes steps of gradients that are only rounding.
    room = 5e-3 if "grpo-implicit" in asked else 1e-6
    assert all(torch.allclose(one[name], two[name], atol=room) for name in one)
    logs = [json.loads((tmp_path / run / "rl.json").read_text())["log"] for run in ("whole", "out")]
    rewards = [[entry["reward"] for entry in log if "reward" in entry] for log in logs]
    assert len(rewards[0]) >= 24 and rewards[0] == pytest.approx(rewards[1], abs=1e-3), "the same answers"
    figures = json.loads((tmp_path / "out" / "rl.json").read_text())
    assert len(figures["log"]) >= 24 and {"reward", "kl", "completions/mean_length"} <= set(figures["log"][0])
    assert (tmp_path / "out" / "policy" / "README.md").is_file()


@pytest.mark.grid
@pytest.mark.parametrize("recipe", ["grpo-implicit", "rloo-implicit"])
def test_the_reward_is_found_by_its_dotted_path_from_trls_command_line(rl_words, tmp_path, recipe):
    done = subprocess.run(command(rl_words, "--recipe", recipe, "--per-token"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out" / "rl.json").read_text())
    assert all({"reward", "kl", "completions/mean_length"} <= set(entry) for entry in figures["log"] if "loss" in entry)


@pytest.mark.grid
def test_the_documents_command_trains_as_it_is_written(checkpoints, tmp_path):
    """`trl grpo … --reward_funcs <dotted path>` of docs/one_model.md, with toys under the names it uses."""
    (command,) = [one.text for one in commands(ROOT / "docs" / "one_model.md") if one.text.startswith("trl grpo ")]
    given = re.search(r"export AAD_REWARD_PAIR='(.*)'", (ROOT / "docs" / "one_model.md").read_text("utf-8"))
    assert given is not None
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "dpo").symlink_to(checkpoints.policy)
    (tmp_path / "my" / "sft").symlink_to(checkpoints.reference)
    (tmp_path / "PROMPTS").mkdir()
    prompts = [[{"role": "user", "content": f"Say {number}"}] for number in range(6)]
    (tmp_path / "PROMPTS" / "train.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    (tmp_path / "one_model").mkdir()
    (tmp_path / "one_model" / "grpo.yaml").write_text(json.dumps({**TOY, "max_steps": 4}))
    words = shlex.split(command.replace("$R", str(tmp_path)))
    done = subprocess.run(
        [str(Path(sys.executable).parent / words[0]), *words[1:]], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, rewards.VARIABLE: given[1]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    state = json.loads((tmp_path / "runs" / "grpo" / "checkpoint-4" / "trainer_state.json").read_text())
    logged = [entry for entry in state["log_history"] if "reward" in entry]
    assert len(logged) == 4 and all(one["reward"] == one["rewards/implicit_reward/mean"] != 0 for one in logged)


@pytest.mark.grid
@pytest.mark.parametrize(
    ("trl_command", "name"),
    [("distillation", "distill"), ("distillation", "distill_demo"), ("grpo", "grpo"), ("grpo", "grpo_demo"),
     ("rloo", "grpo"), ("rloo", "grpo_demo")],
)  # fmt: skip
def test_trl_knows_every_option_of_a_one_model_recipe(trl_command, name, tmp_path):
    from aad_plugin.training.recipes import one_model_recipe
    from aad_plugin.training.trl_command import check_options

    cpu = [] if name.endswith("_demo") else ["--use_cpu", "--bf16", "false"]
    check_options(trl_command, ["--config", str(one_model_recipe(name)), "--output_dir", str(tmp_path), *cpu])


def test_a_policy_that_was_half_copied_is_copied_again(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from aad_plugin.training import reinforcing

    def torn(source, target, **_):
        (target / "config.json").write_text("{}")
        raise KeyboardInterrupt

    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "model.safetensors").write_text("whole")
    plan = SimpleNamespace(recipe="grpo-implicit", prompts=["a"], oracle="reward:x")
    figures = {when: {"picker_mean": 0.0, "oracle_mean": 0.0} for when in ("start", "trained")}
    given = (tmp_path, plan, "start", SimpleNamespace(parts=dict), figures, "float32")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(reinforcing.shutil, "copytree", torn)
        reinforcing._write_policy(*given)
    assert not (tmp_path / "policy").exists()
    reinforcing._write_policy(*given)
    assert (tmp_path / "policy" / "model.safetensors").read_text() == "whole"
