"""Where passed proofs are remembered: one small file each, named after everything that the proof depends on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import write_text


def proof_file(about: Mapping[str, Any], prefix: str = "") -> Path:
    """Return the file of a proof.

    Args:
        about: weights' marks, options, versions: another value is another proof. prefix: of the file's name.
    """
    from aad_plugin.files.cache import cache_dir

    name = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:24]
    return cache_dir() / "proofs" / f"{prefix}{name}.json"


def remember(file: Path, found: Mapping[str, Any]) -> None:
    """Note what passed; a disk that takes nothing costs only the next proof."""
    with contextlib.suppress(ConfigError):
        write_text(file, json.dumps(found))


def cache_dir() -> Path:
    """Return the cache folder: ``$AAD_CACHE_DIR``, else ``aad_plugin`` under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := os.environ.get("AAD_CACHE_DIR"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "aad_plugin"
