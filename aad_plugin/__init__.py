"""Alignment-aware decoding: a DPO policy and its SFT reference decode as one causal language model.

Importing this package loads neither torch nor transformers; public names are resolved on first use.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_HOMES: dict[str, str] = {}

__all__ = ["__version__", *sorted(_HOMES)]

# In a source checkout `tasks/` and `judges/` are siblings of this folder, not children. A checkout that stands on
# sys.path (``python -m lm_eval`` started inside the clone) would otherwise hide the installed sub-packages.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "judges" / "__init__.py").is_file():
    __path__.append(str(_checkout))


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
