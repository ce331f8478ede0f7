"""Prompts to what a pair reads: text through the tokenizer, text with pictures through the processor.

A prompt is a string, or chat messages whose content is a string or parts: {"type": "text", "text": …} and
{"type": "image", "image": <path, bytes, data: URL or Pillow image>}. Knows nothing of strategies.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aad_plugin.errors import ConfigError, first_line
from aad_plugin.pair.multimodal import MultimodalInputs, take_multimodal
from aad_plugin.sources.images import Picture, check_number, parts_of, picture_of_part, read_picture
from aad_plugin.texts.parts import as_parts, text_of
from aad_plugin.texts.prompts import writable
from aad_plugin.texts.rendering import chat_template_of, render_chat

Prompt = str | Sequence[Mapping[str, Any]]
# Models whose processor pads pictures of a batch to one size and encodes the padding with them.
_PADS_PICTURES = frozenset({"emu3"})


@dataclass(frozen=True)
class Rendered:
    """A prompt as text. templated: a chat template made it. pictures: in the order of their places in the text."""

    text: str
    templated: bool
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """A batch: (B, T) int64 ids, left-padded, their mask, and what the prompts show besides."""

    ids: Tensor
    mask: Tensor
    multimodal: MultimodalInputs | None = None


def render(
    pair: Any, prompt: Prompt, chat: bool | None, number: int, template_args: Mapping[str, Any] | None = None
) -> Rendered:
    """Return a prompt as text with its pictures.

    Args:
        pair: its tokenizer, or processor, has the template. chat: wrap a string as a user's turn; None: if there is a
            template. number: of the prompt, for messages. template_args: what the template is given; default: the pair's.
    Raises:
        ConfigError: an empty prompt, pictures for a pair that reads text alone, a template without a place for them, a
            text that holds the word for such a place.
    """
    if not isinstance(prompt, (str, list, tuple)):
        raise ConfigError(f"prompt {number + 1} must be text or chat messages, got {prompt!r}")
    place = f"prompt {number + 1}"
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else []
    pictures: list[Picture] = []
    for turn in prompt if not isinstance(prompt, str) else ():
        messages.append({**turn, "content": _content(turn.get("content", ""), pictures, place)})
    writable(messages, place)
    check_number(len(pictures), place)
    if not pictures and not any(text_of(turn["content"]).strip() for turn in messages):
        raise ConfigError(f"{place} is empty: expected text to answer")
    if pictures and pair.processor is None:
        raise ConfigError(f"{place} shows a picture, but this pair reads text alone: load one that sees")
    template = chat_template_of(pair)
    if chat is None:
        chat = not isinstance(prompt, str) or bool(template)
    if not chat:
        if not isinstance(prompt, str):
            raise ConfigError("chat=False takes plain strings, got chat messages")
        _check_places(pair, prompt, pictures, place)
        return Rendered(prompt, False)
    if not template:
        what = "processor" if pair.processor is not None else "tokenizer"
        raise ConfigError(f"this {what} has no chat template: pass chat=False to continue plain text")
    text = _rendered(
        pair, messages, template, place, pair.chat_template_args if template_args is None else template_args
    )
    _check_places(pair, text, pictures, place)
    return Rendered(text, True, tuple(pictures))


def encode(pair: Any, prompts: Sequence[Rendered]) -> Encoded:
    """Return rendered prompts as one left-padded batch on the pair's device."""
    if not any(prompt.pictures for prompt in prompts):
        return left_pad([_text_ids(pair, prompt) for prompt in prompts], pair)
    found = _processed(pair, prompts)
    ids, mask = found.pop("input_ids"), found.pop("attention_mask")
    multimodal = take_multimodal(found, pair.sides.policy, ids)
    if multimodal is None:
        raise ConfigError("the processor gave no pictures that this model reads: does it belong to the model?")
    return Encoded(ids.to(pair.device), mask.to(pair.device), multimodal.to(pair.device))


def token_ids(pair: Any, prompt: Rendered) -> list[int]:
    """Return one prompt's token ids, its pictures' places among them."""
    if not prompt.pictures:
        return _text_ids(pair, prompt)
    return _processed(pair, [prompt])["input_ids"][0].tolist()


def may_share_a_batch(pair: Any, prompts: Sequence[Rendered]) -> bool:
    """Whether a batch of prompts is read as each of them alone."""
    if pair.sides.policy.config.model_type not in _PADS_PICTURES:
        return True
    return len({picture.size for prompt in prompts for picture in prompt.pictures}) <= 1


def left_pad(rows: list[list[int]], pair: Any) -> Encoded:
    """Return rows of token ids as a batch."""
    width = max(map(len, rows))
    pad = pair.tokenizer.pad_token_id if pair.tokenizer.pad_token_id is not None else 0
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=pair.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=pair.device)
    return Encoded(ids, mask)


def shown_text(prompt: Prompt) -> str:
    """Return a prompt as a page or a table shows it: turn by turn, each picture by its name and digest."""
    if isinstance(prompt, str):
        return prompt
    turns = []
    for turn in prompt:
        pictures: list[Picture] = []
        content = _content(turn.get("content", ""), pictures, "the prompt")
        shown = iter(pictures)
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        texts = [part["text"] if part["type"] == "text" else _named(next(shown)) for part in parts]
        turns.append(f"{turn['role']}: {' '.join(texts)}")
    return "\n\n".join(turns)


def pictures_of(prompt: Prompt) -> tuple[Picture, ...]:
    """Return the pictures of a prompt in their order."""
    pictures: list[Picture] = []
    for turn in () if isinstance(prompt, str) else prompt:
        _content(turn.get("content", ""), pictures, "the prompt")
    return tuple(pictures)


def _named(picture: Picture) -> str:
    return f"[picture {picture.name}, {picture.size[0]} × {picture.size[1]}, {picture.digest}]"


def _content(content: Any, pictures: list[Picture], place: str) -> Any:
    """Return a turn's content as a string or as parts for a template; append its pictures."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise ConfigError(f"{place}: a turn's content is text or a list of parts, got {type(content).__name__}")
    parts: list[dict[str, Any]] = []
    for text, part in parts_of(content, place):
        if text is not None:
            parts.append({"type": "text", "text": text})
            continue
        check_number(len(pictures) + 1, place)
        pictures.append(read_picture(picture_of_part(part, place), f"{place}, picture {len(pictures) + 1}"))
        parts.append({"type": "image"})
    return parts


def _rendered(
    pair: Any, messages: list[dict[str, Any]], template: Any, place: str, template_args: Mapping[str, Any]
) -> str:
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, **template_args}
    if pair.processor is None:
        flat = [{**turn, "content": text_of(turn["content"])} for turn in messages]
        return render_chat(functools.partial(pair.tokenizer.apply_chat_template, **options), flat, place)
    chosen = template if isinstance(template, str) else None
    probe = functools.partial(pair.tokenizer.apply_chat_template, chat_template=chosen, **options)
    if not any(isinstance(turn["content"], list) for turn in messages) and _takes_strings(probe):
        return render_chat(probe, messages, place)
    return render_chat(probe, [{**turn, "content": as_parts(turn["content"])} for turn in messages], place)


def _takes_strings(render: Any) -> bool:
    """Whether a template knows turns whose content is a string; many that know parts do not."""
    try:
        return "probe of a turn" in render([{"role": "user", "content": "probe of a turn"}])
    except Exception:  # whatever a template does with what it does not expect
        return False


def _check_places(pair: Any, text: str, pictures: list[Picture], place: str) -> None:
    if pair.processor is None:
        return
    token = image_token(pair.processor)
    found = text.count(token) if token else len(pictures)
    if found != len(pictures):
        raise ConfigError(
            f"{place} has {len(pictures)} pictures, and its text {found} places for one ({token}): the chat template takes "
            "no more, or the text itself holds that word"
        )


def image_token(processor: Any) -> str | None:
    """Return what stands for a picture in a prompt's text before the processor widens it."""
    for name in ("boi_token", "image_token"):
        value = getattr(processor, name, None)
        if isinstance(value, str) and (name == "image_token" or type(processor).__name__.startswith("Gemma3")):
            return value
    return None


def _text_ids(pair: Any, prompt: Rendered) -> list[int]:
    return pair.tokenizer(prompt.text, add_special_tokens=not prompt.templated)["input_ids"]


def _processed(pair: Any, prompts: Sequence[Rendered]) -> dict[str, Any]:
    """Return the processor's tensors; a template has written special tokens already."""
    images = [[picture.image for picture in prompt.pictures] for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    pair.processor.tokenizer.padding_side = "left"
    try:
        found = pair.processor(
            text=texts, images=images, padding=True, return_tensors="pt", add_special_tokens=not prompts[0].templated
        )
    except (ValueError, TypeError, IndexError, KeyError, RuntimeError) as error:
        raise ConfigError(f"the processor does not take these pictures: {first_line(error)}") from error
    return dict(found)
