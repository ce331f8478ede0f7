"""What tells one state of a checkpoint from a later one under the same name, without reading its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["checkpoint_mark"]

_READ = (".safetensors", ".bin", ".json", ".gguf", ".pt", ".model", ".jinja", ".py")
_IN_EVERY_SNAPSHOT = ("config.json", "adapter_config.json")


def checkpoint_mark(path: str, revision: str | None = None) -> list[Any]:
    """Return a JSON-able mark: names, sizes and times of a local checkpoint's files; a hub id with its commit.

    Args:
        path: a folder, a single file, or a hub id. revision: of the hub id.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return [_file_mark(file) for file in sorted(local.iterdir()) if file.suffix in _READ]
    return [_file_mark(local)] if local.is_file() else [path, _commit(path, revision)]


def _file_mark(file: Path) -> list[Any]:
    status = file.stat()
    return [file.name, status.st_size, status.st_mtime_ns]


def _commit(name: str, revision: str | None) -> str | None:
    """The commit whose files lie in the hub's cache, which a branch such as main may leave behind later."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in _IN_EVERY_SNAPSHOT:
        try:
            found = try_to_load_from_cache(name, file, revision=revision)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parent.name
    return None
