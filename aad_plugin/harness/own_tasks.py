"""Whether the task managers being made read this package's tasks alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ALONE: ContextVar[bool] = ContextVar("our_tasks_alone", default=False)


@contextmanager
def our_tasks_alone() -> Iterator[None]:
    """Let every TaskManager made meanwhile read this package's tasks and not lm-eval's thousands, which takes seconds."""
    before = ALONE.set(True)
    try:
        yield
    finally:
        ALONE.reset(before)
