"""Fixtures. Toy models are so small that more than one thread only waits for the others."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from aad_plugin.cli.main import app
from tests.engine.serving import batch, served_demo
from tests.toys import byte_tokenizer, toy_model, with_adapters

__all__ = ["batch", "served_demo"]

torch.set_num_threads(1)


@dataclass(frozen=True)
class Checkpoints:
    """Toy checkpoints on disk: two full models, and two adapters over a base."""

    policy: Path
    reference: Path
    base: Path
    adapter: Path
    sft_adapter: Path

    def model_args(self, kind: str) -> dict[str, str]:
        """model_args of one kind of pair."""
        return {
            "two_models": {"policy": str(self.policy), "reference": str(self.reference)},
            "reference_plus_lora": {"reference": str(self.base), "adapter": str(self.adapter)},
            "two_adapters": {
                "base": str(self.base),
                "adapter": str(self.adapter),
                "reference_adapter": str(self.sft_adapter),
            },
        }[kind]


@pytest.fixture(autouse=True)
def run_folder(monkeypatch, tmp_path) -> Path:
    """Every test's runs and kept answers go to a folder of its own."""
    monkeypatch.setenv("AAD_OUTPUT_DIR", str(tmp_path / "aad_runs"))
    return tmp_path / "aad_runs"


_ENGINES = {"served_demo": "served demo", "batch": "served demo", "demo_model": "demo engine", "toy_engines": "toys"}


def pytest_collection_finish(session):
    """What is imported by now lives as long as the session: no collection of garbage need look at it again, which took a
    second each time."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Tests that share an engine go to the same worker, so that it is started once."""
    for item in items:
        for fixture, group in _ENGINES.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(group))
                break


@pytest.fixture(scope="module")
def two_threads():
    """For tests of real weights: both cores, unless another worker has one of them."""
    torch.set_num_threads(2 if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") == "1" else 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def aad():
    """``aad …`` in this process; an error is `result.exception`."""

    def run(*arguments):
        return CliRunner().invoke(app(), [str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Checkpoints:
    """Write the toy checkpoints once per session."""
    root = tmp_path_factory.mktemp("checkpoints")
    tokenizer = byte_tokenizer()
    for name, seed in (("policy", 4), ("reference", 5), ("base", 4)):
        toy_model("llama", seed).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    adapted = with_adapters("llama", ("policy", "reference"))
    adapted.peft_config["policy"].base_model_name_or_path = str(root / "base")
    adapted.peft_config["reference"].base_model_name_or_path = str(root / "base")
    adapted.save_pretrained(root / "adapters")
    folders = root / "adapters"
    return Checkpoints(root / "policy", root / "reference", root / "base", folders / "policy", folders / "reference")
