"""Writing a pair folder: configuration, adapters, pointers to checkpoints. ``pair_source`` reads it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.parts import GUIDE_NAMES, PAIR_FILE, PairSource


def save_pair(pair: Any, folder: str | Path) -> Path:
    """Write the folder of a loaded pair; see :func:`write_pair_folder`."""
    if pair.source is None:
        raise ConfigError(
            "this pair was built from models in memory; a pair folder points to checkpoints: save those first"
        )
    return write_pair_folder(pair.source, pair.settings, folder)


def write_pair_folder(source: PairSource, settings: DecodingSettings, folder: str | Path) -> Path:
    """Write a pair folder that ``pair=<folder>`` loads again.

    Args:
        source: what the pair is made of; local adapters are copied, checkpoints are pointed to.
        settings: stored whole; a request or model_args override them.
    Raises:
        ConfigError: the folder holds something else already.
    """
    target = Path(folder).expanduser()
    if target.is_file():
        raise ConfigError(f"{target} is a file, expected a folder to write")
    existing = target / PAIR_FILE
    if existing.is_file() and '"aligned_pair"' not in existing.read_text(encoding="utf-8"):
        raise ConfigError(f"{existing} belongs to another model: choose an empty folder")
    try:
        _write(source, settings, target)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror or error}; pass another folder") from error
    return target


def _write(source: PairSource, settings: DecodingSettings, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    guides = {name: _pointers(value) for name in GUIDE_NAMES if (value := getattr(source, name))}
    pointers: dict[str, Any] = {"preset": source.preset}
    if not source.preset:
        pointers = {name: _pointer(value) for name, value in source.parts().items() if name not in GUIDE_NAMES}
        for name in ("adapter", "reference_adapter"):
            if name in pointers and Path(pointers[name]).is_dir():
                pointers[name] = _copy_adapter(Path(pointers[name]), target / name)
    config = {"model_type": "aligned_pair", "source": {**pointers, **guides}, "settings": dataclasses.asdict(settings)}
    (target / PAIR_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _pointer(value: str) -> str:
    path = Path(value).expanduser()
    return str(path.resolve()) if path.exists() else value


def _pointers(guides: Any) -> Any:
    """Point to guides as :func:`_pointer` does; what is no folder keeps its words."""
    names = guides if isinstance(guides, list | tuple) else [guides] if Path(guides).exists() else guides.split("+")
    return [_pointer(name) for name in names]


def _copy_adapter(origin: Path, target: Path) -> str:
    """Copy an adapter's own files (not checkpoints or adapters in sub-folders)."""
    if origin.resolve() != target.resolve():
        target.mkdir(exist_ok=True)
        for file in _own_files(target):
            file.unlink()  # of an adapter that was saved here before
        for file in _own_files(origin):
            shutil.copy2(file, target / file.name)
    return target.name


def _own_files(folder: Path) -> list[Path]:
    own = ("adapter_", "tokenizer", "special_tokens", "chat_template")
    return [file for file in folder.iterdir() if file.is_file() and file.name.startswith(own)]
