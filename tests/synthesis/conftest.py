"""Prompts that need little: each is a few bytes for the byte tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NUM = 9


@pytest.fixture
def prompt_file(tmp_path) -> Path:
    """Nine prompts of different lengths."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {i} " + "ab " * (i % 4)}) + "\n" for i in range(NUM)))
    return path
