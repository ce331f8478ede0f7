"""The check's own items: short requests with a good answer and a plainly worse one, written for this package."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CheckItem:
    """A request, an answer that is right, and one that is wrong or beside the point."""

    prompt: str
    good: str
    bad: str


@functools.cache
def load_items() -> tuple[CheckItem, ...]:
    """All items of ``check_items.jsonl``."""
    lines = Path(__file__).with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(CheckItem(**json.loads(line)) for line in lines)
