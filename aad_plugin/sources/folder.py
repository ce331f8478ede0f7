"""Writing a pair folder: configuration, adapters, pointers to checkpoints. ``pair_source`` reads it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.files.marks import tokenizer_mark
from aad_plugin.settings import SETTING_NAMES, DecodingSettings
from aad_plugin.sources.arguments import OWN, PER_MODEL, REFERENCE_OPTIONS, TEMPLATE_OPTIONS
from aad_plugin.sources.known_options import FROM_PRETRAINED
from aad_plugin.sources.parts import GUIDE_NAMES, PAIR_FILE, PairSource

# Options that say how a pair is run, not which one it is: they are given anew to whoever loads the folder.
_HOW = frozenset(
    "device reference_device device_map max_memory low_cpu_mem_usage offload_buffers offload_folder offload_state_dict "
    "dtype reference_dtype torch_dtype attn_implementation experts_implementation use_kernels tp_plan tp_size "
    "trust_remote_code reference_trust_remote_code use_safetensors cache_dir force_download local_files_only proxies token "
    "draft_model use_cache".split()
)


def save_pair(pair: Any, folder: str | Path) -> Path:
    """Write the folder of a loaded pair; see :func:`write_pair_folder`.

    Raises:
        ConfigError: it was loaded with options that no folder keeps and that make it another pair.
    """
    if pair.source is None:
        raise ConfigError(
            "this pair was built from models in memory; a pair folder points to checkpoints: save those first"
        )
    given = {**pair.loaded_with, "chat_template_args": pair.chat_template_args}
    if given.get("tokenizer") and tokenizer_mark(pair.tokenizer) == _mark_of(pair.source.tokenizer):
        del given["tokenizer"]
    refuse_unkept(given)
    return write_pair_folder(pair.source, pair.settings, folder)


def _mark_of(tokenizer: str) -> str:
    from transformers import AutoTokenizer

    try:
        return tokenizer_mark(AutoTokenizer.from_pretrained(tokenizer))
    except (ImportError, OSError, ValueError):
        return ""


def refuse_unkept(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for options by which a pair was loaded, besides parts and settings, if the folder alone would load
    another one."""
    known = (*FROM_PRETRAINED, *PER_MODEL, *REFERENCE_OPTIONS, *TEMPLATE_OPTIONS, "tokenizer")
    lost = sorted(
        name for name, value in options.items()
        if name not in _HOW and name not in OWN and value not in (None, False, "", {})
        and not (name.endswith("revision") and value == "main")
    )  # fmt: skip
    if lost:
        meant = "" if lost[0] in known else nearest(lost[0], SETTING_NAMES)
        them = "them" if len(lost) > 1 else "it"
        raise ConfigError(
            f"a pair folder keeps a pair's parts and settings, and not {', '.join(lost)}{meant}, "
            f"without which it would load as another pair: save it without {them}, pass {them} beside pair=<the folder>, "
            "or put such checkpoints and tokenizers into folders and name these"
        )


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
