"""Warnings that PEFT causes in transformers and that nobody who only decodes can do anything about."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Leave out, while adapters are attached, that PEFT (0.21) asks transformers (5.23 on) by a deprecated name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield
