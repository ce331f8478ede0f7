"""From a pair's description to its parts with weights; :class:`aad_plugin.pair.model.AlignedPair` joins them.

Owns which options reach which model. The weights themselves are loaded by a callable, so that lm-eval's backend can
bring its own loader (quantisation, device maps …) and everything else stays the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
)

from aad_plugin.errors import ConfigError, first_line
from aad_plugin.pair.attaching import attach_adapters
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.guide_loading import load_cast
from aad_plugin.pair.guides import Guides
from aad_plugin.pair.reading import Role
from aad_plugin.pair.sides import Sides
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.arguments import (
    OWN,
    PER_MODEL,
    TEMPLATE_OPTIONS,
    take_per_model,
    take_settings,
    take_source,
    take_template_args,
    typed,
)
from aad_plugin.sources.guides import check_guided
from aad_plugin.sources.known_options import check_shortcuts, refuse_unknown, safetensors_only
from aad_plugin.sources.parts import PairSource
from aad_plugin.sources.processors import check_same_processor, load_processor
from aad_plugin.sources.vocabulary import shared_vocab_size
from aad_plugin.sources.whole_weights import load_whole
from aad_plugin.texts.rendering import borrow_template

logger = logging.getLogger(__name__)

_NAMES = (*OWN, "tokenizer", "draft_model", *TEMPLATE_OPTIONS, *PER_MODEL)
LoadModel = Callable[[str, Role], PreTrainedModel]


@dataclass(frozen=True)
class Parts:
    """What a pair is put together from; see ``AlignedPair`` for each."""

    sides: Sides
    vocab_size: int
    settings: DecodingSettings
    tokenizer: Any
    source: PairSource
    shortcuts: str
    draft_model: str | None = None
    guides: Guides = field(default_factory=Guides)
    processor: Any = None
    chat_template_args: dict[str, Any] = field(default_factory=dict)
    loaded_with: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Placement:
    """The per-model options of one side."""

    revision: str | None = None
    dtype: Any = "auto"
    device: Any = None
    gguf_file: str | None = None
    trust_remote_code: bool = False

    def load(self, path: str, auto_class: Any, **options: Any) -> PreTrainedModel:
        """Return the model in eval mode on its device; ``auto_class`` is one of transformers'."""
        try:
            named = safetensors_only(path, {**self.named(), "trust_remote_code": self.trust_remote_code, **options})
            model = load_whole(auto_class, path, dtype=self.dtype, **named)
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


def load_parts(
    pair: str | None = None,
    *,
    pretrained: str | None = None,
    tokenizer: Any = None,
    shortcuts: str = "auto",
    draft_model: str | None = None,
    **options: Any,
) -> Parts:
    """Load a pair's parts with transformers.

    Args:
        pair: preset name, pair folder or TRL output folder.
        pretrained: alias of ``policy`` or ``pair``.
        tokenizer: a tokenizer, or where to load it from; default: the policy's.
        shortcuts: what decoding may leave out, see ``AlignedPair``.
        draft_model: a small model that guesses the next tokens, see ``drafts.py``.
        **options: parts (policy, reference, base, adapter, reference_adapter), decoding settings (strategy, alpha …),
            per-model options (revision, dtype, device, gguf_file, trust_remote_code and their reference_… forms; a bare
            one means both models), what chats are rendered with (enable_thinking, chat_template_args), and what else
            ``AutoModelForCausalLM.from_pretrained`` takes (attn_implementation, device_map …).
    Returns:
        models in eval mode, with what belongs to them.
    """
    named = {name: value for name, value in options.items() if name not in OWN}
    options["pretrained"] = pretrained
    source = take_source(options, pair)
    settings = take_settings(options, source.settings)
    template_args = take_template_args(options)
    sides = _placements(options)
    _check_reference_options(source, sides)
    check_shortcuts(shortcuts)

    def load_model(path: str, role: Role) -> PreTrainedModel:
        refuse_unknown(options, _NAMES, sides[role].config(path))
        return sides[role].load(path, auto_class, **options)

    processor = _processor(source, sides)
    auto_class = AutoModelForCausalLM if processor is None else AutoModelForImageTextToText
    own, other = _tokenizers(source, sides, tokenizer, processor)
    found = assemble(
        source,
        load_model,
        settings=settings,
        tokenizer=own,
        reference_tokenizer=other,
        adapter_revision=sides["policy"].revision,
        reference_revision=sides["reference"].revision,
        shortcuts=shortcuts,
        pickles=options.get("use_safetensors") is False,
        draft_model=draft_model,
        processor=processor,
    )
    return replace(found, chat_template_args=template_args, loaded_with={**named, "tokenizer": tokenizer})


def _processor(source: PairSource, sides: dict[Role, _Placement]) -> Any:
    """Return the processor of models that see, one for both; None for models that read text alone."""

    def find(path: str, role: Role) -> Any:
        own = sides[role]
        return load_processor(path, own.config(path), trust_remote_code=own.trust_remote_code, **own.named())

    processor = find(source.backbone, "policy")
    check_same_processor(processor, processor if source.shares_base else find(source.reference or "", "reference"))
    return processor


def _tokenizers(source: PairSource, sides: dict[Role, _Placement], given: Any, processor: Any) -> tuple[Any, Any]:
    """Return the policy's tokenizer and the reference's, which is the same over a shared base.

    Args:
        given: a tokenizer, or where to load it from; None for the policy's. processor: gets the policy's.
    """

    def load(path: str, role: Role) -> Any:
        # What lies beside an adapter is a folder by now, without a GGUF file in it.
        named = sides[role].named() if path in (given, source.backbone, source.reference) else {}
        try:
            return AutoTokenizer.from_pretrained(path, trust_remote_code=sides[role].trust_remote_code, **named)
        except (ImportError, OSError, ValueError) as e:
            raise ConfigError(f"no tokenizer at {path!r}: {first_line(e)}") from e

    own = given
    if given is None or isinstance(given, str):
        home = given or source.tokenizer_at(sides["policy"].revision)
        held = processor.tokenizer if processor is not None and home == source.backbone else None
        own = load(home, "policy") if given or held is None else held
    if processor is not None:
        processor.tokenizer = own
    return own, own if source.shares_base else load(source.reference or "", "reference")


def assemble(
    source: PairSource,
    load_model: LoadModel,
    *,
    settings: DecodingSettings,
    tokenizer: Any,
    reference_tokenizer: Any,
    adapter_revision: str | None = None,
    reference_revision: str | None = None,
    shortcuts: str = "auto",
    pickles: bool = False,
    draft_model: str | None = None,
    processor: Any = None,
) -> Parts:
    """Load the weights a source names.

    Args:
        load_model: called with a checkpoint and the role it plays; for a shared base the role is "policy".
        adapter_revision: of the policy or its adapter on the hub. reference_revision: of the reference.
        pickles: whether adapters may be read from pickle files.
        draft_model: the draft's name; it is loaded when the pair is joined.
        processor: of models that see.
    Raises:
        VocabMismatch: the tokenizers differ, checked before any weight is loaded.
    """
    borrow_template(tokenizer, source.adapter, source.base)
    vocab_size = shared_vocab_size(tokenizer, reference_tokenizer)
    check_guided(settings, len(source.guides), source.is_alone)
    if processor is not None and source.guides:
        raise ConfigError("guides read token ids alone, and this pair sees pictures: leave guide=… out")
    policy = load_model(source.backbone, "policy")
    revisions: dict[Role, str | None] = {"policy": adapter_revision, "reference": reference_revision}
    found = load_cast(source, policy, tokenizer, vocab_size, pickles=pickles, revisions=revisions)
    sides: Sides
    if source.shares_base:
        others = found.casting.adapters
        sides = attach_adapters(policy, source, adapter_revision, vocab_size=vocab_size, pickles=pickles, others=others)
    else:
        reference = policy if source.is_alone else load_model(source.reference or "", "reference")
        sides = Checkpoints(policy, reference, **found.models)
    sides, guides = found.join(sides, source.guides, source.is_alone)
    return Parts(sides, vocab_size, settings, tokenizer, source, shortcuts, draft_model, guides, processor)


def _placements(options: dict[str, Any]) -> dict[Role, _Placement]:
    """Take the per-model options out of ``options``."""
    both, own = take_per_model(options), take_per_model(options, prefix="reference_")
    return {"policy": _Placement(**typed(both)), "reference": _Placement(**typed({**both, **own}))}


def _check_reference_options(source: PairSource, sides: dict[Role, _Placement]) -> None:
    if source.shares_base and sides["policy"] != sides["reference"]:
        raise ConfigError(
            f"policy and reference share one base model, so {', '.join(f'reference_{name}' for name in PER_MODEL)} have no "
            "meaning here: leave them out, or merge the adapter and pass policy=…,reference=…"
        )
