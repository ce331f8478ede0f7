"""Names that ``from_pretrained`` takes, and the refusal of names that nothing takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, nearest

FROM_PRETRAINED = frozenset(
    "attn_implementation cache_dir code_revision device_map experts_implementation force_download key_mapping "
    "load_in_4bit load_in_8bit local_files_only low_cpu_mem_usage max_memory offload_buffers offload_folder "
    "offload_state_dict proxies quantization_config subfolder token tp_plan tp_size use_kernels use_safetensors "
    "variant".split()
)

# Options of lm-eval's HFLM and transformers that bring a reader of their own for the weights' files.
_OTHER_LOADERS = ("gguf_file", "autogptq", "gptqmodel")


def refuse_pickled_adapter(folder: Path, allow: str = "use_safetensors=false") -> None:
    """Raise ConfigError for an adapter whose weights are a pickle alone, which can run code when it is read.

    Args:
        allow: what a user passes to have it read all the same.
    """
    if (folder / "adapter_model.bin").is_file() and not (folder / "adapter_model.safetensors").is_file():
        raise ConfigError(
            f"adapter {folder} holds its weights as a pickle (adapter_model.bin), which can run code when it is read: save "
            f"it as safetensors, or pass {allow} if you trust it"
        )


def safetensors_only(path: str, options: Mapping[str, Any], allow: str = "use_safetensors=false") -> dict[str, Any]:
    """Return ``from_pretrained``'s options with pickle files ruled out, unless the user passed ``use_safetensors``.

    Args:
        allow: what a user passes to have pickles read all the same.
    Raises:
        ConfigError: a folder holds its weights as pickles alone, which can run code when they are read.
    """
    named = dict(options)
    if any(named.get(name) not in (None, False) for name in _OTHER_LOADERS) or named.get("use_safetensors") is not None:
        return named
    folder = Path(path).expanduser() / str(named.get("subfolder") or "")
    if folder.is_dir() and any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{path!r} holds its weights as pickles (.bin), which can run code when they are read: save them as "
            f"safetensors, or pass {allow} if you trust them"
        )
    return {**named, "use_safetensors": True}


def trusting(trust: bool) -> dict[str, bool]:
    """Return ``from_pretrained``'s option that runs a repository's own code, where a user asked for it: without the
    option transformers may ask on the terminal."""
    return {"trust_remote_code": True} if trust else {}


def refuse_revisions(given: Mapping[str, Any], why: str) -> None:
    """Raise ConfigError for a revision of a hub model other than the main one, where another cannot be read.

    Args:
        given: options by name; ``revision`` and ``reference_revision`` are looked at. why: what reads the main one.
    """
    for name in ("revision", "reference_revision"):
        if given.get(name) not in (None, "", "main"):
            raise ConfigError(
                f"{name}={given[name]}: {why} the main revision of a hub model; fetch the one you want (hf download ID "
                "--revision REVISION --local-dir FOLDER) and name its folder"
            )


def refuse_unknown(names: Iterable[str], known: Iterable[str], config: Any) -> None:
    """Raise for the first name that is neither known nor an attribute of the model's configuration.

    Raises:
        ConfigError: names the nearest known one. Without this a typo would reach the model's constructor.
    """
    allowed = {*known, *FROM_PRETRAINED}
    attributes = config.to_dict()
    for name in names:
        if name not in allowed and not name.startswith("bnb_4bit_") and name not in attributes:
            raise ConfigError(f"unknown model_arg {name!r}{nearest(name, sorted(allowed))}")


SHORTCUTS = ("auto", "none", "candidates", "lazy", "packed")


def check_shortcuts(name: str) -> str:
    """Return ``name``, one of :data:`SHORTCUTS`; ConfigError otherwise."""
    if name not in SHORTCUTS:
        raise ConfigError(f"shortcuts must be one of {', '.join(SHORTCUTS)}, got {name!r}")
    return name
