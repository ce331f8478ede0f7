"""From a pair's description to an :class:`AlignedPair` with weights.

Owns which options reach which model. The weights themselves are loaded by a callable, so that lm-eval's backend can
bring its own loader (quantisation, device maps …) and everything else stays the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from aad_plugin.errors import ConfigError
from aad_plugin.options import refuse_unknown
from aad_plugin.pair import AlignedPair, check_shortcuts
from aad_plugin.pair_source import PART_NAMES, PairSource, resolve
from aad_plugin.same_weights import SAME_WEIGHTS, have_same_weights
from aad_plugin.settings import SETTING_NAMES, DecodingSettings
from aad_plugin.sides import OneBase, Role, TwoModels
from aad_plugin.vocabulary import shared_vocab_size

__all__ = ["PER_MODEL", "assemble", "load_pair", "typed"]

logger = logging.getLogger(__name__)

# Options that may differ between the models: the bare name means both, reference_<name> overrides it.
PER_MODEL = ("revision", "dtype", "device", "gguf_file")
_NAMES = ("pair", "pretrained", "tokenizer", "trust_remote_code", "shortcuts", *PART_NAMES, *SETTING_NAMES, *PER_MODEL)
# Numbers compared of each weight before and after adapters are loaded.
_SAMPLED = 4096
LoadModel = Callable[[str, Role], PreTrainedModel]


@dataclass(frozen=True)
class _Placement:
    """The per-model options of one side."""

    revision: str | None = None
    dtype: Any = "auto"
    device: Any = None
    gguf_file: str | None = None

    def load(self, path: str, **options: Any) -> PreTrainedModel:
        """Return the model in eval mode on its device."""
        try:
            model = AutoModelForCausalLM.from_pretrained(path, dtype=self.dtype, **self.named(), **options)
            return model if self.device is None else model.to(self.device)
        except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as e:
            raise ConfigError(f"cannot load {path!r}: {str(e).splitlines()[0]}") from e

    def config(self, path: str, trust_remote_code: bool) -> Any:
        """Return the model's configuration without its weights."""
        try:
            return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **self.named())
        except (OSError, ValueError) as e:
            raise ConfigError(f"cannot read a model at {path!r}: {str(e).splitlines()[0]}") from e

    def named(self) -> dict[str, Any]:
        """Return revision and gguf_file where they are given."""
        values = {"revision": self.revision, "gguf_file": self.gguf_file}
        return {name: value for name, value in values.items() if value}


def load_pair(
    pair: str | None = None,
    *,
    pretrained: str | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    shortcuts: str = "auto",
    **options: Any,
) -> AlignedPair:
    """Load a pair with transformers.

    Args:
        pair: preset name, pair folder or TRL output folder.
        pretrained: alias of ``policy`` or ``pair``.
        tokenizer: a tokenizer, or where to load it from; default: the policy's.
        shortcuts: what decoding may leave out, see :class:`AlignedPair`.
        **options: parts (policy, reference, base, adapter, reference_adapter), decoding settings (strategy, alpha …),
            per-model options (revision, dtype, device, gguf_file and their reference_… forms), and what else
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
        refuse_unknown(options, _NAMES, sides[role].config(path, trust_remote_code))
        return sides[role].load(path, trust_remote_code=trust_remote_code, **options)

    def load_tokenizer(path: str, role: Role) -> Any:
        named = {} if path == source.adapter else sides[role].named()
        try:
            return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **named)
        except (OSError, ValueError) as e:
            raise ConfigError(f"no tokenizer at {path!r}: {str(e).splitlines()[0]}") from e

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
) -> AlignedPair:
    """Load the weights a source names, join them to a pair and let it prove itself.

    Args:
        load_model: called with a checkpoint and the role it plays; for a shared base the role is "policy".
    Raises:
        VocabMismatch: the tokenizers differ, checked before any weight is loaded.
        ProofFailed: no path of the pair gives what its models give alone.
    """
    vocab_size = shared_vocab_size(tokenizer, reference_tokenizer)
    sides: TwoModels | OneBase
    if source.shares_base:
        sides = _attach_adapters(load_model(source.backbone, "policy"), source, adapter_revision)
    else:
        sides = TwoModels(load_model(source.backbone, "policy"), load_model(source.reference or "", "reference"))
    pair = AlignedPair(
        sides, vocab_size=vocab_size, settings=settings, tokenizer=tokenizer, source=source, shortcuts=shortcuts
    )
    if have_same_weights(sides):
        logger.warning("%s", SAME_WEIGHTS)
    pair.prove()
    return pair


def _attach_adapters(base: PreTrainedModel, source: PairSource, revision: str | None) -> OneBase:
    from peft import PeftModel

    before = _sampled_weights(base)
    adapters = {"policy": source.adapter}
    if source.reference_adapter:
        adapters["reference"] = source.reference_adapter
    options = {"revision": revision} if revision and not Path(source.adapter or "").is_dir() else {}
    try:
        model = PeftModel.from_pretrained(base, adapters.pop("policy"), adapter_name="policy", **options)
        for name, path in adapters.items():
            model.load_adapter(path, adapter_name=name)
    except (OSError, ValueError, RuntimeError, TypeError) as e:
        reason = " ".join(str(e).split())[:300]
        raise ConfigError(f"adapter {source.adapter!r} does not fit base {source.base!r}: {reason}") from e
    _check_base(source, before, _sampled_weights(model.get_base_model()))
    return OneBase(model.eval(), "policy", "reference" if source.reference_adapter else None)


def _sampled_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return some numbers of every weight that is the base's own, by its name without PEFT's wrapping."""
    found = {}
    for name, weight in model.named_parameters():
        if "lora_" in name or ".modules_to_save." in name or weight.device.type == "meta":
            continue
        plain = name.replace(".base_layer", "").replace(".original_module", "")
        flat = weight.detach().flatten()
        found[plain] = flat[:: max(1, len(flat) // _SAMPLED)].clone()
    return found


def _check_base(source: PairSource, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    """Raise if loading adapters rewrote weights that the reference reads, as PiSSA and its kind do."""
    changed = [name for name, old in before.items() if name in after and not torch.equal(old, after[name])]
    if changed:
        raise ConfigError(
            f"loading adapter {source.adapter!r} rewrote {len(changed)} of the base's own weights (first {changed[0]}), so "
            "the base is no longer the reference: an init_lora_weights such as 'pissa' or 'olora' does that. Save it as "
            "plain LoRA (PEFT: path_initial_model_for_weight_conversion=…), or merge it and pass policy=… reference=…"
        )


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
            "policy and reference share one base model, so reference_device, reference_dtype, reference_revision and "
            "reference_gguf_file have no meaning here: leave them out, or merge the adapter and pass policy=… reference=…"
        )
