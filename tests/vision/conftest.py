"""Pairs that see, saved as a user has them: two checkpoints, each with its processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vision.families import FAMILIES, Family


def save(family: Family, seed: int, folder: Path) -> str:
    """Write a checkpoint with its processor; return where."""
    family.model(seed).save_pretrained(folder)
    family.processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Policy and reference on disk."""
    folder = tmp_path_factory.mktemp("llava")
    return save(FAMILIES["llava"], 0, folder / "policy"), save(FAMILIES["llava"], 1, folder / "reference")


@pytest.fixture(scope="session")
def checkpoints_of_text(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A policy and its reference that read text alone."""
    from tests.toys import byte_tokenizer, toy_model

    folder = tmp_path_factory.mktemp("text")
    for seed, name in enumerate(("policy", "reference")):
        toy_model("llama", seed).save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    return str(folder / "policy"), str(folder / "reference")
