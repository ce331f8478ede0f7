"""A training trains what it was asked: that pair, at its strength, in that dtype, chosen and measured by two models."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from aad_plugin.errors import ConfigError
from aad_plugin.harness.arguments import PairArguments
from aad_plugin.training import distilling, owning, reinforcing, trl_command
from aad_plugin.training.evaluation import beside_one_base

OPTIONS = [{"reference_dtype": "float32"}, {"reference_device": "cpu"}, {"reference_trust_remote_code": True}]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_options_of_the_first_reference_do_not_keep_a_trained_adapter_from_loading(checkpoints, option):
    """Training started from two checkpoints; its adapter stands on the policy."""
    start = distilling._Start(str(checkpoints.base), None, str(checkpoints.reference), "auto")
    options = {"dtype": "float32", **option}
    assert PairArguments.parse(None, None, start.model_args(None, options)), "two checkpoints have them"
    found = PairArguments.parse(None, None, start.model_args(checkpoints.adapter, options))
    assert found.source is not None and found.source.shares_base
    assert beside_one_base(options) == {"dtype": "float32"}


def test_what_an_earlier_try_merged_is_not_trained(monkeypatch, tmp_path):
    """A first try that ended before TRL started leaves its start behind."""
    monkeypatch.setattr(owning, "check_options", lambda *_: trl_command.Drawn(None))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{}")

    def take_up(**asked):
        return owning.take_up(tmp_path / "out", asked, "another training", "grpo", recipe, more=(), num_prompts=4)

    (tmp_path / "out" / "start").mkdir(parents=True)
    take_up(adapter="a", at=recipe)
    assert not (tmp_path / "out" / "start").exists()
    (tmp_path / "out" / "start").mkdir()
    take_up(adapter="a", at=recipe)
    assert (tmp_path / "out" / "start").exists(), "the same run goes on with it"
    take_up(adapter="b", at=recipe)
    assert not (tmp_path / "out" / "start").exists()
    (tmp_path / "out" / "training").mkdir()
    with pytest.raises(ConfigError, match="another training"):
        take_up(adapter="c", at=recipe)


def test_the_students_dtype_is_the_command_lines(checkpoints):
    pytest.importorskip("trl")
    from aad_plugin.training.distill_worker import _student

    job = {"student": str(checkpoints.policy), "adapter": None}
    found = {name: next(_student(job, name).parameters()).dtype for name in ("bfloat16", "float32", "auto")}
    assert found == {"bfloat16": torch.bfloat16, "float32": torch.float32, "auto": torch.float32}


@pytest.fixture
def command_words(words, tmp_path):
    """Of ``aad distill`` and ``aad rl``; the pair's own alpha and scale are not the defaults."""

    def given(command):
        (tmp_path / "recipe.yaml").write_text(json.dumps({"max_steps": 1, "use_cpu": True, "bf16": False}))
        own = [word for word in words if word != "--keep-truncated"]
        own[own.index("--model-args") + 1] += ",alpha=0.3,eft_scale=2.5"
        place = own.index("--recipe")
        recipe = ["--training" if command == "rl" else "--recipe", str(tmp_path / "recipe.yaml")]
        return [
            command,
            *own[:place],
            *recipe,
            *own[place + 2 :],
            *{"rl": ["--recipe", "grpo-rollouts"]}.get(command, []),
        ]

    return given


@pytest.mark.parametrize("command", ["distill", "rl"])
def test_a_training_takes_the_pairs_strength(aad, command_words, monkeypatch, tmp_path, command):
    plans = []
    monkeypatch.setattr(distilling, "distill", lambda folder, plan, args: plans.append(plan))
    monkeypatch.setattr(reinforcing, "reinforce", lambda folder, plan, args: plans.append(plan))
    more = ["--picker", "implicit"] if command == "distill" else []
    aad(*command_words(command), *more)
    aad(*command_words(command), *more, "--alpha", "0.2")
    assert [plan.alpha for plan in plans] == [0.3, 0.2]
    if command == "distill":
        for own in ([], ["--scale", "4"]):
            aad(*command_words(command), *more, "--teacher", "eft", *own)
        assert [plan.scale for plan in plans[2:]] == [2.5, 4.0]


def test_lengths_divide_the_implicit_reward_alone(aad, command_words, reward, tmp_path):
    other = shutil.copytree(reward, tmp_path / "reward")
    error = aad(*command_words("rl"), "--per-token", "--reward", f"reward:{other}").exception
    assert str(error).startswith("--per-token divides the implicit reward by length, and --reward is reward:")


@pytest.mark.parametrize(("command", "option"), [("distill", "--picker"), ("rl", "--reward"), ("iterate", "--picker")])
def test_a_copy_of_the_oracle_is_the_oracle(aad, words, command_words, reward, tmp_path, command, option):
    copy = shutil.copytree(reward, tmp_path / "copy")
    own = words if command == "iterate" else command_words(command)[1:]
    error = aad(command, *own, option, f"reward:{copy}").exception
    assert isinstance(error, ConfigError)
    assert str(error).startswith(f"reward:{reward} and reward:{copy} are one reward model by two names")
    assert not (tmp_path / "out").exists()


def test_other_weights_are_other_rewards(checkpoints, reward):
    from aad_plugin.judges.kinds.reward import refuse_twins

    refuse_twins(
        f"reward:{reward}", f"reward:{checkpoints.policy}", f"reward:{reward}", "implicit", None, "reward:org/hub"
    )


def test_a_seeds_second_pass_is_no_other_seeds_first():
    pytest.importorskip("trl")
    from aad_plugin.training.passes import PassSampler

    def order(seed, epoch):
        sampler = PassSampler(range(20), 1, 1, 1, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_a_study_knows_its_tokenizer_and_end_tokens(tmp_path):
    from aad_plugin.study.plan import StudyPlan, keep_plan

    plan = StudyPlan(table=("a", "b"), dev=(), oracle="reward:x", num_curve=0, num_extra=0, num_beams=0)
    models = {"weights": "w", "tokenizer": "one"}
    keep_plan(tmp_path, plan, models)
    with pytest.raises(ConfigError, match='tokenizer is "one" there, "two" here'):
        keep_plan(tmp_path, plan, {**models, "tokenizer": "two"})
    with pytest.raises(ConfigError, match="end_tokens is"):
        keep_plan(tmp_path, plan, {**models, "end_tokens": [7]})
    (older := tmp_path / "older").mkdir()
    keep_plan(older, plan, {"weights": "w"})
    keep_plan(older, plan, {**models, "end_tokens": [7]})
