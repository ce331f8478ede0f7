"""Pictures and other inputs besides tokens: what a batch of prompts shows, and how one model reads it with its prompts.

Which tensors those are, how they become embeddings and which positions their tokens have is each model's own code: a pair
hands them through by their names. Where several rows look at the same pictures (two sides of one base, copies of one
prompt, beams), the model reads them once, up to its decoder; from there on its rows are as many as are asked for. Knows
nothing of processors, files or strategies.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache as once
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache

from aad_plugin.errors import ConfigError
from aad_plugin.pair import cache_names

# What a pair reads itself; other tensors may be a multimodal model's.
READ_BY_ITSELF = frozenset(
    "input_ids inputs attention_mask position_ids inputs_embeds labels logits_to_keep".split() + list(cache_names.NAMES)
)
# Of one entry per token, 0 for text; transformers' names.
_OF_TOKENS = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
# Models whose forward takes tokens out of its own logits by writing the smallest number there is.
_BANNING = frozenset({"chameleon"})
_FAR = 50.0  # nats below a row's best: no alpha calls that plausible
_SHOWN = frozenset({"pixel_values", "pixel_values_videos", "input_features", "audio_values"})


@dataclass(frozen=True)
class MultimodalInputs:
    """What a batch of prompts shows besides its tokens.

    Attributes:
        rows: B, the number of prompts; a batch with more rows holds adjacent copies of each.
        shown: by the name of a forward's parameter, tensors without an axis of tokens (``pixel_values`` …).
        of_tokens: likewise, (B, P) int64 with one entry per token of the prompts (``mm_token_type_ids`` …).
    """

    rows: int
    shown: Mapping[str, Tensor]
    of_tokens: Mapping[str, Tensor]

    def to(self, device: torch.device) -> MultimodalInputs:
        """The same on another device."""
        shown = {name: value.to(device) for name, value in self.shown.items()}
        return MultimodalInputs(self.rows, shown, {name: value.to(device) for name, value in self.of_tokens.items()})

    def arguments(self, length: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return what a forward over ``length`` tokens takes in a model of ``dtype``: those after the prompt are text."""
        padded = {
            name: nn.functional.pad(value, (0, length - value.shape[1])) for name, value in self.of_tokens.items()
        }
        shown = {name: value.to(dtype) if value.is_floating_point() else value for name, value in self.shown.items()}
        return {**shown, **padded}

    def copies(self, rows: int) -> int:
        """Return how many adjacent rows of a batch of ``rows`` look at the same pictures.

        Raises:
            ConfigError: ``rows`` is no multiple of the prompts.
        """
        if rows % self.rows:
            raise ConfigError(f"pictures of {self.rows} prompts were given with {rows} rows of token ids")
        return rows // self.rows


def is_multimodal(model: PreTrainedModel) -> bool:
    """Whether a model reads anything besides tokens."""
    return not _SHOWN.isdisjoint(_names(model))


def _names(model: PreTrainedModel) -> frozenset[str]:
    return _read_signature(type(model).forward)


@once
def _read_signature(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def take_multimodal(
    given: dict[str, Any], model: PreTrainedModel, input_ids: Tensor | None, own: frozenset[str] = READ_BY_ITSELF
) -> MultimodalInputs | None:
    """Take the tensors that only a multimodal model reads out of ``given``; None where there are none.

    Args:
        given: keyword arguments of ``generate`` or ``forward``, changed in place.
        input_ids: (B, T), of the prompts. own: names that a caller reads itself.
    Raises:
        ConfigError: the model reads text alone, or token ids are missing.
    """
    tensors = [name for name, value in given.items() if isinstance(value, Tensor) and name not in own]
    if not is_multimodal(model):
        if not _SHOWN.isdisjoint(tensors):
            raise ConfigError(
                f"this pair reads text alone ({type(model).__name__}), got pictures or sound: load checkpoints that see"
            )
        return None
    names = [name for name in tensors if name in _names(model)]
    found = {name: given.pop(name) for name in names}
    of_tokens = {name: value for name, value in found.items() if name in _OF_TOKENS}
    shown = {name: value for name, value in found.items() if name not in _OF_TOKENS}
    if not shown:
        given.update({name: value for name, value in of_tokens.items() if value.any()})
        return None
    if input_ids is None:
        raise ConfigError(f"{', '.join(shown)} come with input_ids, whose tokens say where they stand: pass both")
    return MultimodalInputs(len(input_ids), shown, of_tokens)


def refuse_beside_pictures(config: Any) -> None:
    """Raise ConfigError for options of ``generate`` that read a prompt in pieces, or guess the tokens of pictures."""
    for name in ("prompt_lookup_num_tokens", "prefill_chunk_size"):
        if getattr(config, name, None):
            raise ConfigError(f"{name} takes apart tokens that stand for pictures: leave it out, or the pictures")


def without_bans(model: PreTrainedModel, logits: Tensor) -> Tensor:
    """Return (…, V) logits in which tokens that the model itself has banned stand far below the best: sums over rows of the
    smallest number there is overflow."""
    if model.config.model_type not in _BANNING:
        return logits
    return logits.where(logits > torch.finfo(logits.dtype).min, logits.amax(-1, keepdim=True) - _FAR)


def is_prompt(cache: Cache | None) -> bool:
    """Whether what is read next begins with the prompt: nothing has been read yet, or everything is read again."""
    return cache is None or not int(cache.get_seq_length())


def positions(model: PreTrainedModel, input_ids: Tensor, multimodal: MultimodalInputs, **given: Any) -> Tensor | None:
    """Return the position ids of prompts with pictures by the model's own rule, or None where it has none of its own.

    Args:
        input_ids: (B · copies, P) int64. **given: what ``generate`` knows besides, attention_mask among them.
    Returns:
        (A, B · copies, P) int64, with as many position axes A as the model has.
    """
    if type(model)._prepare_position_ids_for_generation is GenerationMixin._prepare_position_ids_for_generation:
        return None
    copies = multimodal.copies(len(input_ids))
    ids = input_ids[::copies]
    mask = given.get("attention_mask")
    own = {
        "attention_mask": None if mask is None else mask[::copies],
        **multimodal.arguments(ids.shape[1], model.dtype),
    }
    found = model._prepare_position_ids_for_generation(ids, own)
    return found.repeat_interleave(copies, batch_axis(found)) if copies > 1 else found


def positions_of(
    model: PreTrainedModel, input_ids: Tensor, mask: Tensor, multimodal: MultimodalInputs | None = None
) -> Tensor:
    """Return position ids of whole texts, prompts and what follows them: (B, T), or (A, B, T) by the model's own rule."""
    own = None if multimodal is None else positions(model, input_ids, multimodal, attention_mask=mask)
    return (mask.cumsum(-1) - 1).clamp(min=0) if own is None else own


def batch_axis(position_ids: Tensor) -> int:
    """Return the axis of rows: of (B, T) the first, of (A, B, T) the second."""
    return position_ids.ndim - 2


def read_multimodal(
    model: PreTrainedModel,
    input_ids: Tensor,
    multimodal: MultimodalInputs,
    sides: int,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    **options: Any,
) -> Any:
    """Return a model's output over prompts with pictures, read once however many rows look at them.

    Args:
        input_ids: (B · copies, T) int64, from the prompt's first token.
        sides: S, how many times the rows go through the decoder, side after side.
        **options: what the forward takes besides (use_cache, a cache, logits_to_keep).
    Returns:
        the model's own output, with S · B · copies rows.
    Raises:
        ConfigError: copies without a cache, which differ after the prompt, or of a model that reads pictures inside its
            decoder.
        NotImplementedError: this model reads pictures inside its decoder, so every row has to read its own.
    """
    copies = multimodal.copies(len(input_ids))
    given = {"attention_mask": attention_mask, "position_ids": position_ids}
    of_rows = {name: value for name, value in given.items() if value is not None}
    if copies > 1:
        if not options.get("use_cache"):
            raise ConfigError(
                "pictures are read once for all beams or answers of a prompt, and without a cache each would have to read "
                "them again: leave use_cache=False out"
            )
        input_ids = input_ids[::copies]
        of_rows = {name: value[..., ::copies, :] for name, value in of_rows.items()}
    shown = multimodal.arguments(input_ids.shape[1], model.dtype)
    with _decoder_rows(model, copies, sides) if copies * sides > 1 else contextlib.nullcontext():
        return model(input_ids=input_ids, **of_rows, **shown, **options)


@contextlib.contextmanager
def _decoder_rows(model: PreTrainedModel, copies: int, sides: int) -> Iterator[None]:
    """Inside the block the decoder reads each row ``copies`` times, and all of that ``sides`` times."""

    def widen(module: nn.Module, args: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if given.get("inputs_embeds") is None:
            inside = f"{type(model).__name__} reads pictures inside its decoder"
            if copies > 1:
                raise ConfigError(
                    f"{inside}, where beams and several answers to one prompt cannot share them: leave num_beams, "
                    "num_return_sequences and cache_implementation out"
                )
            raise NotImplementedError(inside)
        return args, {name: _widened(name, value, copies, sides) for name, value in given.items()}

    handle = model.get_decoder().register_forward_pre_hook(widen, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _widened(name: str, value: Any, copies: int, sides: int) -> Any:
    if isinstance(value, Tensor):
        if value.ndim < 2:  # one entry per token of all rows
            return value
        axis = batch_axis(value) if name == "position_ids" else 0
        value = value.repeat_interleave(copies, axis) if copies > 1 else value
        return torch.cat([value] * sides, axis) if sides > 1 else value
    if isinstance(value, dict):
        return {key: _widened(key, one, copies, sides) for key, one in value.items()}
    if isinstance(value, list | tuple):
        if copies > 1 and any(isinstance(one, Tensor) for one in value):
            raise ConfigError(
                f"{name} holds pictures of all rows: beams and several answers to one prompt cannot share them"
            )
        return type(value)(_widened(name, one, copies, sides) for one in value)
    if value is None or isinstance(value, bool | int | float | str | Cache):
        return value
    raise NotImplementedError(f"{name} is {type(value).__name__}, whose rows cannot be repeated")


def sees_apart(model: Any) -> bool:
    """Whether the sides of a PeftModel have to read pictures each for itself: an adapter changes a layer before the
    decoder's first (a vision tower, a projector, embeddings), or the decoder is what reads pictures."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    base = model.get_base_model()
    if not is_multimodal(base):
        return False
    decoder, head = base.get_decoder(), base.get_output_embeddings()
    if decoder is base.base_model:
        return True
    text = {id(module) for module in decoder.modules()} | {id(head)}
    embeddings = {id(module) for module in base.get_input_embeddings().modules()}
    adapted = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return any(
        isinstance(module, adapted) and (id(module) not in text or id(module) in embeddings)
        for module in base.modules()
    )
