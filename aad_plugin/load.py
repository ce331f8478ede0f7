"""From a pair's description to an :class:`AlignedPair` with weights.

Owns which options reach which model. The weights themselves are loaded by a callable, so that lm-eval's backend can
bring its own loader (quantisation, device maps …) and everything else stays the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from aad_plugin.attach_adapters import attach_adapters
from aad_plugin.draft_loading import load_draft
from aad_plugin.errors import ConfigError, first_line
from aad_plugin.options import refuse_unknown, safetensors_only
from aad_plugin.pair import AlignedPair, check_shortcuts
from aad_plugin.pair_source import PART_NAMES, PairSource, resolve
from aad_plugin.proof import prove_use
from aad_plugin.rendering import borrow_template
from aad_plugin.rounding import coarsest_dtype, say_dtype
from aad_plugin.same_weights import SAME_WEIGHTS, have_same_weights
from aad_plugin.settings import SETTING_NAMES, DecodingSettings
from aad_plugin.sides import OneBase, Role, TwoModels
from aad_plugin.vocabulary import shared_vocab_size

__all__ = ["PER_MODEL", "assemble", "load_pair", "typed"]

logger = logging.getLogger(__name__)

# Options that may differ between the models: the bare name means both, reference_<name> overrides it.
PER_MODEL = ("revision", "dtype", "device", "gguf_file", "trust_remote_code")
_NAMES = ("pair", "pretrained", "tokenizer", "shortcuts", "draft_model", *PART_NAMES, *SETTING_NAMES, *PER_MODEL)
LoadModel = Callable[[str, Role], PreTrainedModel]


@dataclass(frozen=True)
class _Placement:
    """The per-model options of one side."""

    revision: str | None = None
    dtype: Any = "auto"
    device: Any = None
    gguf_file: str | None = None
    trust_remote_code: bool = False

    def load(self, path: str, **options: Any) -> PreTrainedModel:
        """Return the model in eval mode on its device."""
        try:
            named = safetensors_only(path, {**self.named(), "trust_remote_code": self.trust_remote_code, **options})
            model = AutoModelForCausalLM.from_pretrained(path, dtype=self.dtype, **named)
            return model if self.device is None else model.to(self.device)
        except ConfigError:
            raise
        except (ImportError, OSError, ValueError, TypeError, RuntimeError, AssertionError) as e:
            raise ConfigError(f"cannot load {path!r}: {first_line(e)}") from e

    def config(self, path: str) -> Any:
        """Return the model's configuration without its weights."""
        try:
            return AutoConfig.from_pretrained(path, trust_remote_code=self.trust_remote_code, **self.named())
        except (ImportError, OSError, ValueError) as e:
            raise ConfigError(f"cannot read a model at {path!r}: {first_line(e)}") from e

    def named(self) -> dict[str, Any]:
        """Return revision and gguf_file where they are given."""
        values = {"revision": self.revision, "gguf_file": self.gguf_file}
        return {name: value for name, value in values.items() if value}


def load_pair(
    pair: str | None = None,
    *,
    pretrained: str | None = None,
    tokenizer: Any = None,
    shortcuts: str = "auto",
    draft_model: str | None = None,
    **options: Any,
) -> AlignedPair:
    """Load a pair with transformers.

    Args:
        pair: preset name, pair folder or TRL output folder.
        pretrained: alias of ``policy`` or ``pair``.
        tokenizer: a tokenizer, or where to load it from; default: the policy's.
        shortcuts: what decoding may leave out, see :class:`AlignedPair`.
        draft_model: a small model that guesses the next tokens, see :mod:`aad_plugin.drafts`.
        **options: parts (policy, reference, base, adapter, reference_adapter), decoding settings (strategy, alpha …),
            per-model options (revision, dtype, device, gguf_file, trust_remote_code and their reference_… forms; a bare
            one means both models), and what else
            ``AutoModelForCausalLM.from_pretrained`` takes (attn_implementation, device_map …).
    Returns:
        an :class:`AlignedPair` in eval mode.
    """
    parts = {name: options.pop(name, None) for name in PART_NAMES}
    source = resolve(pair, pretrained, **parts)
    changes = {name: options.pop(name) for name in SETTING_NAMES if name in options}
    settings = DecodingSettings().override(**source.settings).override(**changes)
    sides = _placements(options)
    _check_reference_options(source, sides)
    check_shortcuts(shortcuts)

    def load_model(path: str, role: Role) -> PreTrainedModel:
        refuse_unknown(options, _NAMES, sides[role].config(path))
        return sides[role].load(path, **options)

    def load_tokenizer(path: str, role: Role) -> Any:
        named = {} if path == source.adapter else sides[role].named()
        try:
            return AutoTokenizer.from_pretrained(path, trust_remote_code=sides[role].trust_remote_code, **named)
        except (ImportError, OSError, ValueError) as e:
            raise ConfigError(f"no tokenizer at {path!r}: {first_line(e)}") from e

    if tokenizer is None or isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer or source.tokenizer, "policy")
    reference_tokenizer = tokenizer if source.shares_base else load_tokenizer(source.reference or "", "reference")
    return assemble(
        source,
        load_model,
        settings=settings,
        tokenizer=tokenizer,
        reference_tokenizer=reference_tokenizer,
        adapter_revision=sides["policy"].revision,
        shortcuts=shortcuts,
        pickles=options.get("use_safetensors") is False,
        draft_model=draft_model,
    )


def assemble(
    source: PairSource,
    load_model: LoadModel,
    *,
    settings: DecodingSettings,
    tokenizer: Any,
    reference_tokenizer: Any,
    adapter_revision: str | None = None,
    shortcuts: str = "auto",
    pickles: bool = False,
    draft_model: str | None = None,
) -> AlignedPair:
    """Load the weights a source names, join them to a pair and let it prove itself.

    Args:
        load_model: called with a checkpoint and the role it plays; for a shared base the role is "policy".
        pickles: whether adapters may be read from pickle files.
        draft_model: as in :func:`load_pair`.
    Raises:
        VocabMismatch: the tokenizers differ, checked before any weight is loaded.
        ProofFailed: no path of the pair gives what its models give alone.
    """
    borrow_template(tokenizer, source.adapter, source.base)
    vocab_size = shared_vocab_size(tokenizer, reference_tokenizer)
    sides: TwoModels | OneBase
    if source.shares_base:
        base = load_model(source.backbone, "policy")
        sides = attach_adapters(base, source, adapter_revision, vocab_size=vocab_size, pickles=pickles)
    else:
        sides = TwoModels(load_model(source.backbone, "policy"), load_model(source.reference or "", "reference"))
    pair = AlignedPair(
        sides, vocab_size=vocab_size, settings=settings, tokenizer=tokenizer, source=source, shortcuts=shortcuts
    )
    if have_same_weights(sides):
        logger.warning("%s", SAME_WEIGHTS)
    pair.prove()
    if draft_model is not None:
        pair.draft = load_draft(draft_model, pair)
        prove_use(pair, "drafts")
    say_dtype(coarsest_dtype(sides.models().values()))
    return pair


def _placements(options: dict[str, Any]) -> dict[Role, _Placement]:
    """Take the per-model options out of ``options``."""
    both, own = (
        {name: value for name in PER_MODEL if (value := options.pop(prefix + name, None)) is not None}
        for prefix in ("", "reference_")
    )
    return {"policy": _Placement(**typed(both)), "reference": _Placement(**typed({**both, **own}))}


def typed(values: dict[str, Any]) -> dict[str, Any]:
    """Return per-model options with ``dtype`` as a torch dtype or "auto"; ConfigError for another word."""
    dtype = values.get("dtype")
    if isinstance(dtype, str) and dtype != "auto":
        resolved = getattr(torch, dtype, None)
        if not isinstance(resolved, torch.dtype):
            raise ConfigError(f"dtype must be 'auto' or a torch dtype such as 'bfloat16', got {dtype!r}")
        values = {**values, "dtype": resolved}
    return values


def _check_reference_options(source: PairSource, sides: dict[Role, _Placement]) -> None:
    if source.shares_base and sides["policy"] != sides["reference"]:
        raise ConfigError(
            f"policy and reference share one base model, so {', '.join(f'reference_{name}' for name in PER_MODEL)} have no "
            "meaning here: leave them out, or merge the adapter and pass policy=… reference=…"
        )
