"""What surrounds TRL's process: checkpoints to go on from, trainers left behind by a kill, the missing package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from aad_plugin.errors import BackendMissing, ConfigError
from aad_plugin.training import trl_command
from aad_plugin.training.recipes import read_recipe, recipe_names, recipe_path
from aad_plugin.training.trl_command import (
    FOLDER_MARK,
    TrainingFailed,
    check_options,
    end_orphans,
    last_checkpoint,
    resume_checkpoint,
    run_trl,
)


def checkpoint(folder, step, state):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(state)
    return path


def test_training_goes_on_from_the_newest_checkpoint_that_is_whole(tmp_path):
    assert last_checkpoint(tmp_path) is None
    whole = checkpoint(tmp_path, 9, json.dumps({"log_history": [{"loss": 0.5}]}))
    checkpoint(tmp_path, 10, '{"log_hist')  # torn by a kill
    (tmp_path / "checkpoint-11").mkdir()  # its weights were being written
    assert last_checkpoint(tmp_path) == resume_checkpoint(tmp_path) == whole
    assert trl_command.log_history(tmp_path) == [{"loss": 0.5}]


def test_training_that_took_its_last_step_takes_no_step_more(tmp_path):
    """Broken off after the last checkpoint and before the model was saved: transformers would train one step more."""
    state = {"global_step": 4, "max_steps": 6, "epoch": 0.4, "num_train_epochs": 1}
    before = checkpoint(tmp_path, 4, json.dumps(state))
    last = checkpoint(tmp_path, 6, json.dumps({**state, "global_step": 6, "epoch": 0.6}))
    assert (resume_checkpoint(tmp_path), last_checkpoint(tmp_path)) == (before, last)
    whole_epochs = checkpoint(tmp_path / "epochs", 6, json.dumps({**state, "global_step": 6, "epoch": 1.0}))
    assert resume_checkpoint(tmp_path / "epochs") == whole_epochs
    shutil.rmtree(before)
    assert resume_checkpoint(tmp_path) is None


def test_a_trainer_left_behind_is_ended_and_no_other_process(tmp_path):
    def sleeper(folder):
        line = [sys.executable, "-c", "print(flush=True); import time; time.sleep(60)"]
        process = subprocess.Popen(line, env={**os.environ, FOLDER_MARK: str(folder)}, stdout=subprocess.PIPE)
        process.stdout.readline()
        return process

    mine, other = sleeper(tmp_path / "mine"), sleeper(tmp_path / "mine-too")
    try:
        end_orphans(tmp_path / "mine")
        mine.wait(timeout=20)
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


@pytest.mark.parametrize("command", ["iterate", "distill", "rl"])
def test_without_trl_the_extra_is_named(monkeypatch, aad, words, command):
    monkeypatch.setattr(trl_command.importlib.util, "find_spec", lambda name: None)
    own = [word for word in words if word != "--keep-truncated"] if command != "iterate" else words
    more = {"distill": ["--picker", "implicit"], "rl": ["--training", own[own.index("--recipe") + 1]]}.get(command, [])
    more += ["--recipe", "grpo-implicit"] if command == "rl" else []
    error = aad(command, *own, *more).exception
    assert isinstance(error, BackendMissing)
    assert str(error) == "training needs TRL, which is not installed: pip install 'aad_plugin[train]'"


@pytest.mark.parametrize("found", ["1.16.0", "1.16.0.dev0", "1.17rc1", "2.0"])
def test_a_trl_that_is_new_enough(monkeypatch, found):
    monkeypatch.setattr(trl_command.metadata, "version", lambda name: found)
    trl_command.check_trl((1, 16))


@pytest.mark.parametrize("found", ["1.15.2", "0.29.0", "1.4.0"])
def test_a_trl_that_is_too_old_is_named(monkeypatch, found):
    monkeypatch.setattr(trl_command.metadata, "version", lambda name: found)
    with pytest.raises(BackendMissing) as caught:
        trl_command.check_trl((1, 16))
    wanted = f"this command needs TRL 1.16 or newer, found {found}: pip install -U 'aad_plugin[train]'"
    assert str(caught.value) == wanted


def test_recipes_are_found_by_name_and_by_path(tmp_path):
    losses = [f"loss_{name}" for name in ("apo_zero", "hinge", "ipo", "kto", "orpo", "robust", "sigmoid", "simpo")]
    names = ["dpo", "dpo_demo", "dpo_demo@1", *losses, "reward", "reward_demo", "reward_demo@1", "sft"]
    assert recipe_names() == names
    paper = read_recipe(recipe_path("dpo"))
    assert (paper["beta"], paper["lora_r"], paper["num_train_epochs"]) == (0.1, 64, 2)
    own = tmp_path / "own.yaml"
    own.write_text("- beta")
    with pytest.raises(ConfigError, match=r"own\.yaml must be a mapping of TRL's options, got list"):
        read_recipe(recipe_path(str(own)))
    with pytest.raises(ConfigError) as caught:
        recipe_path("dpo_dmo")
    assert str(caught.value) == (
        f"no recipe 'dpo_dmo' (did you mean 'dpo_demo'?); expected {', '.join(names)} or a .yaml file"
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "dpo" else pytest.mark.grid)
        for name in recipe_names()
        if not name.startswith("loss_")  # test_losses.py knows which trainer a loss takes
    ],
)
def test_trl_knows_every_option_of_a_recipe(name, tmp_path):
    cpu = [] if "_demo" in name else ["--use_cpu", "--bf16", "false"]
    check_options(name.partition("_")[0], ["--config", str(recipe_path(name)), "--output_dir", str(tmp_path), *cpu])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "more", "message"),
    [
        ("beta: 0.1\nbetta: 0.2", [], "trl dpo does not know betta, which the recipe holds"),
        ("beta: 0.1", ["--max_steps", "many"], "trl dpo does not take these options: .* invalid int value: 'many'"),
        ("beta: 0.1", ["--num_processes", "2"], None),  # accelerate's
    ],
)
def test_options_are_read_before_anything_is_computed(recipe, more, message, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(recipe)
    given = ["--config", str(path), "--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false", *more]
    if message is None:
        check_options("dpo", given)
        return
    with pytest.raises(ConfigError, match=message):
        check_options("dpo", given)


@pytest.mark.slow
def test_a_failing_trainer_is_one_line_with_its_cause_and_its_log(checkpoints, tmp_path):
    with pytest.raises(TrainingFailed) as caught:
        run_trl(
            "dpo", ["--model_name_or_path", str(checkpoints.base), "--dataset_name", str(tmp_path / "no_such_set"),
                    "--use_cpu", "--bf16", "false"],
            output=tmp_path / "out", log=tmp_path / "training.log", mark=tmp_path,
        )  # fmt: skip
    message = str(caught.value)
    assert message.startswith("trl dpo ended with status 1: ") and "no_such_set" in message
    assert message.endswith(f"its words are in {tmp_path / 'training.log'}. It had not reached its first checkpoint")


def test_the_demo_pairs_folder_takes_up_no_other_training(tmp_path, monkeypatch):
    from experiments.demo_pair import training

    ran = []
    monkeypatch.setattr(training, "run_trl", lambda *given, **_: ran.append(given))
    (tmp_path / "sets" / "reward").mkdir(parents=True)
    rows = tmp_path / "sets" / "reward" / "train.jsonl"
    rows.write_text("{}\n")
    training.train("reward", tmp_path, tmp_path)
    training.train("reward", tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="another training"):
        training.train("reward", tmp_path, tmp_path, preset="demo@1")
    rows.write_text("{}\n{}\n")
    with pytest.raises(ConfigError, match="another training"):
        training.train("reward", tmp_path, tmp_path)
    assert len(ran) == 2
