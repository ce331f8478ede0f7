"""Prompts and replies as chat messages, and what makes two prompts the same. Plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Any

from aad_plugin.errors import ConfigError, nearest

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

Messages = Sequence[Mapping[str, str]]

Reply = str | Sequence[str]  # one text, or one per user turn of the prompt


def as_messages(prompt: str | Messages) -> list[dict[str, str]]:
    """Return a prompt as chat messages; a plain instruction becomes one user turn.

    Raises:
        ConfigError: the prompt is neither a string nor messages with "role" and "content" strings.
    """
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return checked_turns(prompt, str, "string 'role' and 'content'")


def checked_turns(turns: Iterable[Mapping[str, Any]], content: type | UnionType, wanted: str) -> list[dict[str, Any]]:
    """Return turns with "role" and "content" alone.

    Args:
        content: of what type a content is. wanted: what is expected of a turn, for messages.
    Raises:
        ConfigError: a turn without them, of another role, or no turns.
    """
    messages = [dict(message) for message in turns]
    for message in messages:
        if not (isinstance(message.get("role"), str) and isinstance(message.get("content"), content)):
            raise ConfigError(f"a prompt is a string or a list of messages with {wanted}, got {message!r:.200}")
        if message["role"] not in ROLES:
            # It will stand in a marker line of the judge's prompt, outside of what is marked as somebody's text.
            raise ConfigError(
                f"the role of a message must be one of {', '.join(ROLES)}, got {message['role']!r:.60}"
                f"{nearest(message['role'][:40], ROLES)}"
            )
    if not messages:
        raise ConfigError("a prompt needs at least one message, got an empty list")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def split_replies(prompt: str | Messages) -> tuple[list[dict[str, str]], list[str]]:
    """Return a prompt's turns without the assistant's, and what the assistant said between them."""
    messages = as_messages(prompt)
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    return [message for message in messages if message["role"] != "assistant"], said


def with_replies(prompt: str | Messages, said: Sequence[str], place: str) -> list[dict[str, str]]:
    """Return a prompt with other words of the assistant between its turns, one for each that is there.

    Raises:
        ConfigError: another number of them, or no texts.
    """
    messages = as_messages(prompt)
    _, there = split_replies(messages)
    if not isinstance(said, list | tuple) or len(said) != len(there) or not all(isinstance(one, str) for one in said):
        raise ConfigError(f"{place}: expected a list of {len(there)} earlier replies, got {said!r:.80}")
    left = iter(said)
    return [{**turn, "content": next(left)} if turn["role"] == "assistant" else turn for turn in messages]


def as_text(reply: Reply) -> str:
    """Return an answer as one text: replies follow each other."""
    return reply if isinstance(reply, str) else "\n\n".join(reply)


def conversation(prompt: str | Messages, reply: Reply) -> list[dict[str, str]]:
    """Return the whole conversation: one answer after the prompt, or each reply after the user turn it answers.

    Raises:
        ConfigError: several replies, and not one per user turn.
    """
    messages = as_messages(prompt)
    if isinstance(reply, str):
        return [*messages, {"role": "assistant", "content": reply}]
    turns = sum(message["role"] == "user" for message in messages)
    if turns != len(reply):
        raise ConfigError(f"an answer in several replies needs one per user turn, got {len(reply)} for {turns} turns")
    left = iter(reply)
    said = []
    for message in messages:
        said.append(message)
        if message["role"] == "user":
            said.append({"role": "assistant", "content": next(left)})
    return said


def prompt_hash(prompt: str | Messages) -> str:
    """Hash of the user's turns: what two answers must share to be compared."""
    return digest([turn["content"].strip() for turn in as_messages(prompt) if turn["role"] == "user"])[:16]


def shown_hash(prompt: str | Messages, pictures: Sequence[str] = ()) -> str:
    """`prompt_hash` of a prompt with pictures, told by their marks: one question about two pictures is two prompts."""
    own = prompt_hash(prompt)
    return digest([own, *pictures])[:16] if pictures else own


def digest(value: Any) -> str:
    """SHA-256 in hex of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
