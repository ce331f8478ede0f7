"""Chats through a tokenizer's template, also where it knows no system turn, and templates that an adapter lacks.

Owns what happens when a template refuses a conversation or leaves a turn out of it, and how much room a configuration
tells of. Knows nothing of models.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from aad_plugin.errors import ConfigError
from aad_plugin.texts.parts import as_parts

logger = logging.getLogger(__name__)

Turn = Mapping[str, Any]
Render = Callable[[list[dict[str, Any]]], str]


def known_context(config: Any) -> int | None:
    """Return the tokens that a model's configuration says it can read; None where it does not tell."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or None


def shortest_context(configs: Iterable[Any]) -> int | None:
    """Return the tokens that models of all these configurations can read; None where none tells."""
    return min((length for length in map(known_context, configs) if length), default=None)


def render_chat(render: Render, messages: Sequence[Turn], place: str) -> str:
    """Render chat messages as `settled` has them; arguments and errors as there."""
    return render(settled(render, messages, place))


def chat_template_of(model: Any) -> Any:
    """Return what a loaded model or pair renders chats by: its processor's template, else its tokenizer's; may be empty."""
    return getattr(getattr(model, "processor", None), "chat_template", None) or model.tokenizer.chat_template


def without_template(messages: Sequence[Turn]) -> str:
    """Return a conversation as paragraphs to be continued, for a tokenizer that has no chat template."""
    return "".join(f"{turn['content']}\n\n" for turn in messages)


def settled(render: Render, messages: Sequence[Turn], place: str) -> list[dict[str, Any]]:
    """Return the messages as a template takes them: a system turn that it refuses or ignores opens the user's turn.

    Args:
        render: messages -> text, by the tokenizer's template. place: which conversation, in a user's words.
    Raises:
        ConfigError: the template refuses this order of turns, for example two user turns in a row.
    """
    turns = [dict(turn) for turn in messages]
    moved = _system_in_first_user_turn(turns)
    try:
        text = render(turns)
        if moved is None or render([{**turns[0], "content": _altered(turns[0]["content"])}, *turns[1:]]) != text:
            return turns
    except TemplateError as error:
        if moved is None:
            raise _refused(place, turns, error) from error
    try:
        render(moved)
    except TemplateError as error:
        raise _refused(place, turns, error) from error
    _say_once()
    return moved


def borrow_template(tokenizer: Any, adapter: str | None, base: str | None, **options: Any) -> None:
    """Give a tokenizer that was saved beside an adapter the chat template of the base, where it has none of its own.

    Changes ``tokenizer``. Without this every prompt would go in raw.

    Args:
        options: of ``AutoTokenizer.from_pretrained`` for the base.
    """
    if not adapter or not base or getattr(tokenizer, "chat_template", None):
        return
    home = str(getattr(tokenizer, "name_or_path", ""))
    if home != str(adapter) and f"models--{adapter.replace('/', '--')}" not in Path(home).parts:  # the hub's cache
        return
    from transformers import AutoTokenizer

    try:
        template = AutoTokenizer.from_pretrained(base, **options).chat_template
    except (OSError, ValueError):
        return
    if template:
        logger.warning("the tokenizer beside adapter %s has no chat template: its base's (%s) is used", adapter, base)
        tokenizer.chat_template = template


def _system_in_first_user_turn(turns: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The conversation without its leading system turn, which opens the user's; None where there is none to move."""
    if len(turns) < 2 or turns[0].get("role") != "system" or turns[1].get("role") != "user":
        return None
    system, user = (turn.get("content") for turn in turns[:2])
    if isinstance(system, str) and isinstance(user, str):
        return [{**turns[1], "content": "\n\n".join(text for text in (system, user) if text)}, *turns[2:]]
    if not all(isinstance(content, str | list) for content in (system, user)):
        return None
    opening = as_parts(system)
    if not opening or not all(part.get("type") == "text" for part in opening):
        return None
    opening[-1] = {**opening[-1], "text": f"{opening[-1]['text']}\n\n"}
    return [{**turns[1], "content": [*opening, *as_parts(user)]}, *turns[2:]]


def _altered(content: Any) -> Any:
    """Another content; its first part changes, since a template may read that alone."""
    if isinstance(content, str):
        return f"{content}."
    return [{**content[0], "text": f"{content[0]['text']}."}, *content[1:]]


@functools.cache
def _say_once() -> None:
    logger.warning("this chat template takes no system turn: it opens the first user turn instead")


def _refused(place: str, turns: Sequence[Turn], error: TemplateError) -> ConfigError:
    roles = ", ".join(str(turn.get("role")) for turn in turns)
    return ConfigError(
        f"{place}: the tokenizer's chat template takes no such conversation ({roles}): {error}; "
        "change its turns, or the template"
    )
