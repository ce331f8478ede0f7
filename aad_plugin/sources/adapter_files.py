"""Files of a LoRA adapter, which is a folder or a hub id: what lies beside its weights is used from either."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from aad_plugin.files.marks import snapshot

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = (
    "tokenizer*", "special_tokens*", "added_tokens*", "chat_template*", "additional_chat_templates/*", "vocab*", "merges*",
    "*.model",
)  # fmt: skip


def adapter_file(adapter: str, name: str, revision: str | None = None) -> Path | None:
    """Return where a file of an adapter is, None where it has none; blocks on the network for a hub id.

    Args:
        adapter: a folder or a hub id. revision: of a hub id. Offline, or with no way to the hub, its cache answers.
    """
    folder = Path(adapter).expanduser()
    if folder.exists():
        return folder / name if (folder / name).is_file() else None
    return _hub_file(adapter, name, revision)


def tokenizer_beside(adapter: str, revision: str | None = None) -> str | None:
    """Return where the tokenizer is that an adapter was saved with, None where it was saved with none; arguments as in
    :func:`adapter_file`. Of a hub id it is a folder in the hub's cache."""
    if adapter_file(adapter, "tokenizer_config.json", revision) is None:
        return None
    # Read by the hub id offline, transformers asks for a config.json, which adapters do not have.
    return adapter if Path(adapter).expanduser().exists() else _hub_tokenizer(adapter, revision)


@functools.lru_cache(maxsize=64)
def _hub_tokenizer(name: str, revision: str | None) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(name, revision=revision, allow_patterns=list(_TOKENIZER_FILES))


@functools.lru_cache(maxsize=256)
def _hub_file(name: str, file: str, revision: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except (OSError, ValueError):  # no such file; or no such id, which whoever loads it says
        pass
    if snapshot(name, revision) is not None and try_to_load_from_cache(name, file, revision=revision) is None:
        logger.warning(
            "the hub cannot be asked whether %s has a %s, and its cache does not tell: taken for no", name, file
        )
    return None
