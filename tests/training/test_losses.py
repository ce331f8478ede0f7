"""The recipes of losses: one set of options for all, TRL's own parsers read each, and each trains a toy."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from aad_plugin.errors import ConfigError
from aad_plugin.pair.model import load_pair
from aad_plugin.training import experimental
from aad_plugin.training.losses import LOSSES, loss_named
from aad_plugin.training.recipes import read_recipe, recipe_names, recipe_path
from aad_plugin.training.trl_command import check_options, log_history
from experiments.demo_pair import losses

OWN = {"loss_type", "beta", "label_smoothing", "cpo_alpha", "simpo_gamma"}


def test_losses_differ_in_nothing_but_the_loss():
    recipes = {name: read_recipe(recipe_path(loss.recipe)) for name, loss in LOSSES.items()}
    shared = [{key: value for key, value in one.items() if key not in OWN} for one in recipes.values()]
    texts = {name: one.pop("per_device_train_batch_size") * (1 if name == "kto" else 2)
             for name, one in zip(recipes, shared, strict=True)}  # fmt: skip
    assert set(texts.values()) == {8}, "KTO's rows are single answers, the others' are pairs"
    assert all(one == shared[0] for one in shared)
    assert {name for name in recipe_names() if name.startswith("loss_")} == {loss.recipe for loss in LOSSES.values()}
    assert [name for name, loss in LOSSES.items() if not loss.has_reference] == ["orpo", "simpo"]


def test_an_unknown_loss_is_one_line():
    with pytest.raises(ConfigError, match=r"no loss 'simop' \(did you mean 'simpo'"):
        loss_named("simop")


@pytest.mark.parametrize("name", ["orpo", "simpo"])
def test_answers_end_as_the_chat_template_ends_them(name, checkpoints, tmp_path):
    """An answer that was cut has no end token; TRL's own command for the other losses adds none to messages either."""
    pytest.importorskip("trl")
    base = shutil.copytree(checkpoints.base, tmp_path / "base")
    (base / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    rows = [{"prompt": [{"role": "user", "content": "ask "}], "chosen": [{"role": "assistant", "content": "good"}],
             "rejected": [{"role": "assistant", "content": "bad"}]}]  # fmt: skip
    for kind, lines in (("chat", rows), ("text", [{"prompt": "ask ", "chosen": "good", "rejected": "bad"}])):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
        words = ["--config", str(recipe_path(LOSSES[name].recipe)), "--model_name_or_path", str(base), "--dataset_name",
                 str(tmp_path / kind), "--output_dir", str(tmp_path / "out")]  # fmt: skip
        trainer = experimental.make_trainer(name, words)
        tokenizer, row = trainer.processing_class, trainer.train_dataset[0]
        end = [] if kind == "chat" else [tokenizer.eos_token_id]
        for side, text in (("chosen", "good"), ("rejected", "bad")):
            found = [
                token
                for token, label in zip(row[f"{side}_input_ids"], row[f"{side}_labels"], strict=True)
                if label >= 0
            ]
            assert found == tokenizer(text, add_special_tokens=False)["input_ids"] + end


@pytest.mark.slow
@pytest.mark.grid
@pytest.mark.parametrize("name", LOSSES)
def test_trls_parser_takes_every_recipe(name):
    pytest.importorskip("trl")
    loss = LOSSES[name]
    words = ["--config", str(recipe_path(loss.recipe)), "--model_name_or_path", "m", "--dataset_name", "d"]
    check_options(loss.command, [*words, "--output_dir", "out"])


@pytest.mark.slow
@pytest.mark.grid
@pytest.mark.parametrize("name", LOSSES)
def test_every_recipe_trains_a_policy_of_a_pair_and_goes_on_after_a_kill(name, checkpoints, tmp_path):
    pytest.importorskip("trl")

    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    rows = [
        {
            "prompt": turn("user", f"ask {i}"),
            "chosen": turn("assistant", f"good {i}"),
            "rejected": turn("assistant", "bad"),
        }
        for i in range(8)
    ]
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = (name, 0, checkpoints.base, tmp_path / "set", tmp_path)
    options = "--max_steps 3 --save_steps 1 --logging_steps 1 --warmup_steps 0 --learning_rate 1e-2"
    policy, folder = losses.train(*asked, options), tmp_path / f"training/{name}-0"
    once = load_file(policy / "adapter_model.safetensors")
    shutil.rmtree(policy)
    (folder / "adapter_model.safetensors").unlink()  # killed after the last checkpoint, before the policy was saved
    losses.train(*asked, options)
    calls = [line for line in (tmp_path / f"{name}-0.log").read_text().splitlines() if line.startswith("$ ")]
    assert len(calls) == 2 and calls[1].endswith("checkpoint-2")
    assert [entry["step"] for entry in log_history(folder) if "loss" in entry] == [1, 2, 3]
    torch.testing.assert_close(load_file(policy / "adapter_model.safetensors"), once)
    assert all(math.isfinite(entry["loss"]) for entry in log_history(folder) if "loss" in entry)
    pair = load_pair(reference=str(checkpoints.base), adapter=str(policy))
    assert not pair.sides.have_same_weights(), "training has to change something"
