"""A small study over toy checkpoints, run once, and the command as typed."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from aad_plugin.study.plan import StudyPlan, read_plan
from aad_plugin.study.rewards import Reader
from aad_plugin.study.rows import Rows
from tests.toys import PAD, VOCAB, byte_tokenizer, toy_model

QUESTIONS = [f"Question {number}: " + "why so? " * (number % 5 + 1) for number in range(14)]
SMALL = {
    "num-prompts": 8, "num-dev": 4, "num-curve": 3, "num-extra": 5, "samples": 5, "alphas": "0.1,0.3",
    "eft-scales": "1.5,3", "num-beams": 2, "max-new-tokens": 6, "batch-size": 4,
}  # fmt: skip
TIMED = ("seconds", "cpu_seconds")


def arguments(output: Path, **options: object) -> list[str]:
    """``aad study`` with these options; an underscore stands for a hyphen, None leaves an option out."""
    named = {**SMALL, **{name.replace("_", "-"): value for name, value in options.items()}}
    given = [(f"--{name}", str(value)) for name, value in named.items() if value is not None]
    return ["study", "--output", str(output), *(part for pair in given for part in pair)]


def aad(*words: str):
    """Run ``aad …`` in this process; an error is `result.exception`."""
    from aad_plugin.cli.main import app

    return CliRunner().invoke(app(), list(words))


def figures(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Every table's CSV without what differs from run to run: time."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8") as file:
            found[path.stem] = [{k: v for k, v in row.items() if k not in TIMED} for row in csv.DictReader(file)]
    return found


def kept(folder: Path) -> tuple[dict, dict]:
    """Answers and scores in a folder, without what differs from run to run: time."""
    rows = Rows(folder)
    timeless = {name: 0.0 for name in ("seconds", "cpu_seconds", "picker_seconds", "picker_cpu_seconds")}
    return {key: replace(answer, **timeless) for key, answer in rows.answers.items()}, rows.scores


@dataclass(frozen=True)
class Inputs:
    """What a toy study is made from."""

    prompts: Path
    reward: str
    model_args: str
    reference: Path
    policy: Path

    def options(self, **more: object) -> dict[str, object]:
        """The options every toy study takes."""
        return {
            "prompts": self.prompts, "oracle": f"reward:{self.reward}", "model_args": self.model_args,
            "wrong_reference": self.policy, **more,
        }  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """A study that has ended."""

    folder: Path
    inputs: Inputs

    @property
    def plan(self) -> StudyPlan:
        return read_plan(self.folder)[0]

    @property
    def reader(self) -> Reader:
        return Reader(self.plan, Rows(self.folder))


def toy_reward(folder: Path, seed: int = 11) -> str:
    """A random reward model over bytes."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=PAD, num_labels=1, initializer_range=0.5,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory, checkpoints) -> Inputs:
    """Prompts, an oracle and a pair of two toy checkpoints; the policy itself is the wrong reference."""
    root = tmp_path_factory.mktemp("study_inputs")
    (root / "prompts.txt").write_text("\n".join(QUESTIONS) + "\n")
    # Half way between two random models, as a real reference is related to its policy.
    reference, policy = toy_model("llama", 5), toy_model("llama", 4)
    with torch.no_grad():
        for own, other in zip(reference.parameters(), policy.parameters(), strict=True):
            own.lerp_(other, 0.7)
    reference.save_pretrained(root / "reference")
    byte_tokenizer().save_pretrained(root / "reference")
    pair = f"policy={checkpoints.policy},reference={root / 'reference'}"
    return Inputs(root / "prompts.txt", toy_reward(root / "reward"), pair, root / "reference", checkpoints.policy)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, inputs) -> Finished:
    """The toy study, undisturbed."""
    folder = tmp_path_factory.mktemp("study") / "out"
    done = aad(*arguments(folder, **inputs.options()))
    assert done.exit_code == 0, (done.output, done.exception)
    return Finished(folder, inputs)
