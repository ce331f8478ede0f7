"""What tells one state of a checkpoint from a later one under the same name."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

_READ = (".safetensors", ".bin", ".json", ".gguf", ".pt", ".model", ".jinja", ".py")
WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")
_MODEL = (*WEIGHTS, ".json", ".jinja", ".model", ".txt", ".py")
# What trainers, converters and other commands leave beside a model; a copy without these is the same model.
_NOT_THE_MODEL = (
    "training_args.bin", "trainer_state.json", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt",
    "all_results.json", "train_results.json", "eval_results.json", "manifest.json",
)  # fmt: skip
_IN_EVERY_SNAPSHOT = ("config.json", "adapter_config.json")


def checkpoint_mark(path: str, revision: str | None = None) -> list[Any]:
    """Return a JSON-able mark: names, sizes and times of a local checkpoint's files; a hub id with its commit.

    Args:
        path: a folder, a single file, or a hub id. revision: of the hub id.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return [_file_mark(file) for file in sorted(local.iterdir()) if file.suffix in _READ]
    return [_file_mark(local)] if local.is_file() else [path, checkpoint_commit(path, revision)]


def newest_mark(path: str) -> list[Any]:
    """`checkpoint_mark` of what would be read now: the hub is asked which commit its main branch has, where it can be."""
    if not Path(path).expanduser().exists():
        _ask_hub(path)
    return checkpoint_mark(path)


def _ask_hub(name: str) -> None:
    """Bring a hub id's configuration into the cache, and with it the commit that its main branch has."""
    from huggingface_hub import hf_hub_download

    for file in _IN_EVERY_SNAPSHOT:
        try:
            hf_hub_download(name, file)
            return
        except (OSError, ValueError):  # no such file; or no network, no such id, which whoever loads it says
            continue


def _file_mark(file: Path) -> list[Any]:
    status = file.stat()
    return [file.name, status.st_size, status.st_mtime_ns]


def checkpoint_commit(name: str, revision: str | None = None) -> str | None:
    """Return the commit whose files lie in the hub's cache, which a branch such as main may leave behind later."""
    found = snapshot(name, revision)
    return None if found is None else found.name


def snapshot(name: str, revision: str | None = None) -> Path | None:
    """Return the folder of a hub id's files in the hub's cache; None where the cache has none.

    Args:
        name: hub id. revision: of it; None is its main branch as it was last read.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in _IN_EVERY_SNAPSHOT:
        try:
            found = try_to_load_from_cache(name, file, revision=revision)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that make a model what it is: weights, configuration, tokenizer, template, code."""
    return sorted(
        path for path in folder.iterdir()
        if path.suffix in _MODEL and path.name not in _NOT_THE_MODEL and path.is_file()
    )  # fmt: skip


def model_files_mark(path: str | Path) -> str | None:
    """Return 16 hex digits from the content of all files that make a local model what it is; None of what is not here.

    Args:
        path: a folder or a single file; all of it is read (about a second per GiB).
    """
    local = Path(path).expanduser()
    files = model_files(local) if local.is_dir() else [local] if local.is_file() else []
    marks = [[file.name, file_sha256(file)] for file in files]
    return hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16] if marks else None


def weight_files_mark(path: str, revision: str | None = None) -> str | None:
    """Return 16 hex digits from the content of a checkpoint's weight files; None where they are not on this disk.

    Args:
        path: a folder, a single file, or a hub id whose files lie in the hub's cache. revision: of the hub id.
    """
    given = Path(path).expanduser()
    local = given if given.exists() else snapshot(path, revision)
    if local is None:
        return None
    files = [local] if local.is_file() else sorted(file for file in local.iterdir() if file.suffix in WEIGHTS)
    if not files:
        return None
    marks = [[file.name, file_sha256(file)] for file in files]
    return hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16]


def weights_of(model: Any) -> list[tuple[str, Any]]:
    """A model's weights by name: parameters, and buffers that are saved with it, in which quantised layers keep theirs."""
    found = list(model.named_parameters())
    if hasattr(model, "named_modules"):
        skipped = {
            f"{home}.{name}".lstrip(".") for home, module in model.named_modules()
            for name in module._non_persistent_buffers_set
        }  # fmt: skip
        found += [(name, buffer) for name, buffer in model.named_buffers() if name not in skipped]
    return found


def strengths_of(model: Any) -> list[tuple[str, float]]:
    """By what factor each adapted layer adds each adapter, under `<layer>.<adapter>.scaling`: no tensor says it, and the
    same tensors added with another factor (lora_alpha, use_rslora, alpha_pattern) are another model."""
    layers = model.named_modules() if hasattr(model, "named_modules") else ()
    factors = ((name, getattr(layer, "scaling", None)) for name, layer in layers)
    return [
        (f"{name}.{adapter}.scaling", float(factor))
        for name, own in factors if isinstance(own, dict) for adapter, factor in sorted(own.items())
    ]  # fmt: skip


def weights_mark(model: Any, only: str = "") -> str:
    """Return 16 hex digits from every weight's name, shape, dtype, first values and sum of bits, and from the strengths of
    adapters.

    The sum is one of whole numbers, the same in whatever order a device adds them up, so a change anywhere in the weights
    gives another mark. Reads the weights once (some seconds for a large model on a CPU).

    Args:
        only: a part of the names of those that are marked.
    """
    import torch

    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # as wide as an element of so many bytes
    digest = hashlib.sha256()
    for name, parameter in weights_of(model):
        if only not in name:
            continue
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        if parameter.device.type != "meta" and parameter.numel():
            flat = parameter.detach().flatten()
            bits = flat.view(whole.get(flat.element_size(), torch.uint8))
            digest.update(str(int(bits.sum(dtype=torch.int64))).encode())
            digest.update(flat[:64].to("cpu").view(torch.uint8).numpy().tobytes())
    for name, strength in strengths_of(model):
        if only in name:
            digest.update(f"{name}{strength!r}".encode())
    return digest.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return a hash of a file's bytes as 64 hex digits; blocks on the disk.

    All of them: of a sibling that was tuned in some layers alone the beginning and the end are the same.
    """
    status = path.stat()
    return _sha256(str(path.resolve()), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _sha256(path: str, size: int, time: int) -> str:
    """Of a file as it is, read once per process."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_OF_A_BATCH = ("padding", "truncation")


def tokenizer_mark(tokenizer: Any) -> str:
    """Return 16 hex digits from what a tokenizer does with text: vocabulary, merges, normalisation, template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # how the last batch was padded and cut stands there too, and says nothing of the tokenizer
        rules = str({name: part for name, part in json.loads(backend.to_str()).items() if name not in _OF_A_BATCH})
    else:
        rules = str(sorted(tokenizer.get_vocab().items()))
    template = getattr(tokenizer, "chat_template", None)
    return text_mark(f"{type(tokenizer).__name__}\n{rules}\n{template}\n{tokenizer.special_tokens_map}")


def text_mark(text: str) -> str:
    """Return 16 hex digits that differ where the text does."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
