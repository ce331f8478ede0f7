"""Is this the base an adapter was trained on? Files are compared, no weights are loaded."""

from __future__ import annotations

import filecmp
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.sources.adapter_files import adapter_file

logger = logging.getLogger(__name__)


def check_adapter_base(adapter: str, base: str, option: str) -> None:
    """Refuse a base that is provably not the one an adapter's configuration names; warn where only names can be compared.

    Args:
        adapter: folder of a LoRA; one on the hub is read when its revision is known, see :func:`check_hub_adapter`.
        base: as given. option: its name, for the message.
    Raises:
        ConfigError: both bases are folders here and their weights differ.
    """
    if Path(adapter).expanduser().exists():
        _check(adapter, base, option, None)


def check_hub_adapter(adapter: str, base: str, revision: str | None = None) -> None:
    """`check_adapter_base` of an adapter on the hub, which is asked for its configuration; nothing for a folder."""
    if not Path(adapter).expanduser().exists():
        _check(adapter, base, "base", revision)


def _check(adapter: str, base: str, option: str, revision: str | None) -> None:
    file = adapter_file(adapter, "adapter_config.json", revision)
    try:
        config = json.loads(file.read_text(encoding="utf-8-sig")) if file else {}
        named = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if not named:  # nothing to compare with
        return
    refuse_base_revision(config, adapter)
    named = str(named)
    ours, theirs = Path(base).expanduser(), Path(named).expanduser()
    if named == base or ours.resolve() == theirs.resolve():
        return
    if ours.is_dir() and theirs.is_dir():
        if not _hold_the_same_weights(ours, theirs):
            raise ConfigError(
                f"adapter {adapter} was trained on {named}, {option}={base} holds other weights: pass {option}={named}"
            )
    elif ours.name.lower() != theirs.name.lower():
        logger.warning(
            "adapter %s was trained on %s, but %s=%s was given: is it the same model?", adapter, named, option, base
        )


def refuse_base_revision(config: Mapping[str, Any], adapter: str | Path) -> None:
    """Raise ConfigError for an adapter of a hub model's revision other than the main one, which alone is read beside it.

    Args:
        config: the adapter's. adapter: its folder, for the message.
    """
    base, revision = str(config.get("base_model_name_or_path") or ""), config.get("revision")
    if revision not in (None, "", "main") and not Path(base).expanduser().exists():
        raise ConfigError(
            f"adapter {adapter} was trained on revision {revision} of {base}, and the main one would be read: fetch it "
            f"(hf download {base} --revision {revision} --local-dir FOLDER) and name the folder as base_model_name_or_path "
            f"in adapter_config.json of {adapter} (of a copy of it, if it is on the hub), without revision"
        )


def _hold_the_same_weights(one: Path, other: Path) -> bool:
    """Whether the weights' files of two folders are the same byte for byte; sizes are compared first."""
    files, others = (sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]) for folder in (one, other))
    if [(path.name, path.stat().st_size) for path in files] != [(path.name, path.stat().st_size) for path in others]:
        return False
    pairs = zip(files, others, strict=True)
    return all(a.resolve() == b.resolve() or filecmp.cmp(a, b, shallow=False) for a, b in pairs)
