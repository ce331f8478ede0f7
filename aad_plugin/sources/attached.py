"""A PEFT adapter on its base, without what PEFT warns of and nobody who only decodes can do anything about."""

from __future__ import annotations

import warnings
from typing import Any


def attached(base: Any, adapter: str, **options: Any) -> Any:
    """Return ``PeftModel.from_pretrained(base, adapter, **options)``.

    Leaves out the warning that PEFT (0.21) asks transformers (5.23 on) by a deprecated name.
    """
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        return PeftModel.from_pretrained(base, adapter, **options)
