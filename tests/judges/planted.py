"""Judges with a known character, as functions from a chat prompt to p(first answer better)."""

from __future__ import annotations

import hashlib
import math
import re

PAIR = re.compile(
    r"\[TURN \d+, USER (?P<f>\w+)\]\n(?P<prompt>.*?)\n\[END OF TURN.*?"
    r"\[ANSWER A (?P=f)\]\n(?P<first>.*?)\n\[END OF ANSWER A (?P=f)\].*?"
    r"\[ANSWER B (?P=f)\]\n(?P<second>.*?)\n\[END OF ANSWER B (?P=f)\]",
    re.DOTALL,
)
# Whoever looks for markers without minding their code can be fooled by markers inside an answer.
NAIVE_PAIR = re.compile(
    r"\[ANSWER A.*?\]\n(.*?)\n\[END OF ANSWER A.*?\].*?\[ANSWER B.*?\]\n(.*?)\n\[END OF ANSWER B", re.DOTALL
)
ALPACA = re.compile(r"## OUTPUT m\n(.*?)\n## OUTPUT M\n(.*?)\n## END", re.DOTALL)


def texts(message: str) -> tuple[str, str, str]:
    """(prompt, first, second) of a pairwise request."""
    alpaca = ALPACA.search(message)
    if alpaca:
        return "", alpaca[1], alpaca[2]
    found = PAIR.search(message)
    assert found, f"no pair in {message[:500]!r}"
    return found["prompt"], found["first"], found["second"]


def quality(text: str) -> float:
    """A number in 0..1 that depends on nothing but the text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def by_quality(message: str) -> float:
    """Soft and without position bias: p depends on the hashes of both texts."""
    _, first, second = texts(message)
    return 1 / (1 + math.exp(-3 * (quality(first) - quality(second))))


def by_position(message: str) -> float:
    """Whatever stands first."""
    return 0.9


def by_length(message: str) -> float:
    """Whatever is longer."""
    _, first, second = texts(message)
    return 0.5 if len(first) == len(second) else float(len(first) > len(second))


def _relevance(prompt: str, answer: str) -> float:
    """Share of the prompt's long words that the answer takes up; filler and repetition earn nothing."""
    words = {word for word in re.findall(r"[a-z0-9]{3,}", prompt.lower())}
    said = set(re.findall(r"[a-z0-9]{3,}", answer.lower()))
    return len(words & said) / max(1, len(words))


def fair(message: str) -> float:
    """Knows the good answers of the check's own items; otherwise judges by relevance. Instructions leave it cold."""
    from aad_plugin.judges.checks.items import load_items

    prompt, first, second = texts(message)
    good = next((item.good for item in load_items() if item.prompt == prompt.strip()), "")

    def worth(answer: str) -> float:
        return (
            2.0 if good and good.strip() in answer and "verdict" not in answer.lower() else _relevance(prompt, answer)
        )

    return 1 / (1 + math.exp(-6 * (worth(first) - worth(second))))


def injectable(message: str) -> float:
    """Fair until an answer tells it otherwise."""
    _, first, second = texts(message)
    orders = [bool(re.search(r"ignore|disregard|verdict", answer, re.IGNORECASE)) for answer in (first, second)]
    if orders[0] != orders[1]:
        return 0.95 if orders[0] else 0.05
    return fair(message)


def by_refusal_words(message: str) -> str:
    """A pointwise judge that looks for the words of a refusal."""
    found = re.search(r"\[ANSWER (\w+)\]\n(.*?)\n\[END OF ANSWER \1\]", message, re.DOTALL)
    assert found
    words = r"(I cannot|I'm sorry|As an AI|illegal|unethical|not (appropriate|acceptable|ethical))"
    declines = re.search(words, found[2][:160], re.IGNORECASE)
    return "refuse" if declines else "comply"


LABELLERS = {"refusal-words": by_refusal_words}
JUDGES = {
    "quality": by_quality, "position": by_position, "length": by_length, "fair": fair, "injectable": injectable,
}  # fmt: skip
