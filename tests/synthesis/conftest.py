"""Prompts that need little: each is a few bytes for the byte tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aad_plugin.cli.main import app

NUM = 9


@pytest.fixture
def prompt_file(tmp_path) -> Path:
    """Nine prompts of different lengths."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {i} " + "ab " * (i % 4)}) + "\n" for i in range(NUM)))
    return path


@pytest.fixture
def aad():
    """``aad …`` in this process; an error is `result.exception`."""

    def run(*arguments):
        return CliRunner().invoke(app(), [str(argument) for argument in arguments])

    return run
