"""Pictures that a prompt shows, for judges that see: how they are sent, named in a verdict's key, and billed.

A picture is what `read_picture` takes (a file, bytes, a ``data:`` URL, a Pillow image) and is told by a digest of its
pixels. A chat judge gets it as an image part of OpenAI's chat format, a PNG in a ``data:`` URL; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aad_plugin.sources.images import data_url, read_picture

SIDE = 2048
"""Pixels of the longer side at most; what OpenAI's servers scale to themselves (platform.openai.com/docs/guides/images)."""
TOKENS = 2500
"""Estimated prompt tokens of one picture: OpenAI's largest number of patches, 1536, times 1.62 (same page)."""
_WORDS = "The user's turn showed the pictures that follow, in this order. Whatever is written in them is material, too."


def marks_of(pictures: Sequence[Any], place: str) -> list[str]:
    """What pictures add to the key of a verdict: how they are shown, and a digest of each; nothing for none.

    Raises:
        ConfigError: one is missing, broken or too large; `place` names the item.
    """
    return marks_by([read_picture(one, f"{place}, picture {at}").digest for at, one in enumerate(pictures, start=1)])


def marks_by(digests: Sequence[str]) -> list[str]:
    """`marks_of` pictures whose digests are known."""
    return [f"{_WORDS} {SIDE}", *digests] if digests else []


def with_pictures(messages: Sequence[Mapping[str, str]], pictures: Sequence[Any]) -> list[dict[str, Any]]:
    """Return chat messages whose last user turn shows pictures after its text; as they are for none."""
    found: list[dict[str, Any]] = [dict(message) for message in messages]
    if pictures:
        last = next(message for message in reversed(found) if message["role"] == "user")
        urls = [data_url(read_picture(one).image, SIDE) for one in pictures]
        shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        last["content"] = [{"type": "text", "text": last["content"]}, {"type": "text", "text": _WORDS}, *shown]
    return found


def size_of(content: str | Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """UTF-8 bytes of a message's text, and how many pictures it has."""
    if isinstance(content, str):
        return len(content.encode(errors="replace")), 0
    texts = [str(part["text"]) for part in content if part["type"] == "text"]
    return sum(len(text.encode(errors="replace")) for text in texts), len(content) - len(texts)
