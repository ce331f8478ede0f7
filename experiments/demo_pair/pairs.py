"""Preference pairs out of sampled answers, with length kept from telling the two sides apart.

Two kinds of pair. *Written*: the reference answered one prompt twice, asked for good work once and for bad work once.
*Built*: a good answer against a text made from it, or from another one, that is wrong in one known way.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.demo_pair.prompts import Prompt, load_prompts
from experiments.demo_pair.sampling import MAX_NEW_TOKENS, Answer

GOOD = ("short", "brief", "helpful")
WRITTEN = {"policy": ("careless", "rambling"), "reward": ("careless", "rambling", "noisy")}
# kind -> share of the prompts that get such a pair
BUILT = {
    "policy": {"looping": 0.35, "off_topic": 0.4},
    "reward": {"looping": 0.6, "off_topic": 0.8, "restart": 0.3, "refusal": 0.3, "echo": 0.2},
}
MIN_TOKENS = 12


@dataclass(frozen=True)
class Pair:
    """One preference. Lengths are in tokens; ``*_ended`` says that the answer was closed within the token limit."""

    prompt_id: str
    kind: str
    held_out: bool
    prompt: str
    chosen: str
    rejected: str
    chosen_tokens: int
    rejected_tokens: int
    chosen_ended: bool
    rejected_ended: bool


@dataclass(frozen=True)
class _Text:
    text: str
    num_tokens: int
    ended: bool


def build_pairs(
    split: str, answers: Iterable[Answer], count_tokens: Callable[[str], int], *, seed: int = 0
) -> list[Pair]:
    """Return the preference pairs of ``policy`` or ``reward``, train and held-out prompts alike, lengths balanced.

    Args:
        split: which prompts; their answers must be in `answers`.
        answers: what `sampling.sample_answers` wrote.
        count_tokens: length of a text in the reference's tokens.
        seed: order and random choices.
    """
    rng = random.Random(f"{seed} {split}")
    by_prompt: dict[str, dict[str, list[_Text]]] = defaultdict(lambda: defaultdict(list))
    for a in answers:
        text = _Text(a.text, count_tokens(a.text), a.ended)
        cut_properly = a.ended or text.num_tokens >= MAX_NEW_TOKENS  # else training would see an end where none was
        if cut_properly and a.num_tokens >= MIN_TOKENS and not is_degenerate(a.text):
            by_prompt[a.prompt_id][a.condition].append(text)
    prompts = load_prompts(split)
    pairs = []
    for prompt in prompts:
        pairs += _written(prompt, by_prompt[prompt.id], WRITTEN[split])
        pairs += _built(prompt, by_prompt, prompts, BUILT[split], count_tokens, rng)
    rng.shuffle(pairs)
    return balance(pairs)


def is_degenerate(text: str) -> bool:
    """Say whether a text loops (a 4-gram more than three times), is empty, or is mostly not letters."""
    words = text.lower().split()
    grams = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return not words or max(grams.values(), default=0) > 3 or letters < 0.7 * len(text)


def longer_wins(pairs: Iterable[Pair], *, characters: bool = False) -> float:
    """Return how often the longer answer, in tokens or in characters, is the chosen one; a tie counts one half."""
    differences = [
        len(p.chosen) - len(p.rejected) if characters else p.chosen_tokens - p.rejected_tokens for p in pairs
    ]
    return sum((d > 0) + 0.5 * (d == 0) for d in differences) / len(differences)


def save_pairs(pairs: list[Pair], path: Path) -> None:
    """Write pairs as JSON lines; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in pairs), encoding="utf-8")


def load_pairs(path: Path) -> list[Pair]:
    """Read what `save_pairs` wrote."""
    return [Pair(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _pair(prompt: Prompt, kind: str, chosen: _Text, rejected: _Text) -> Pair:
    lengths = (chosen.num_tokens, rejected.num_tokens)
    return Pair(
        prompt.id,
        kind,
        prompt.held_out,
        prompt.text,
        chosen.text,
        rejected.text,
        *lengths,
        chosen.ended,
        rejected.ended,
    )


def _written(prompt: Prompt, texts: dict[str, list[_Text]], bad_conditions: tuple[str, ...]) -> list[Pair]:
    """Pair every bad answer with the good one nearest in length; a good answer serves once, if there are enough."""
    good = [t for name in GOOD for t in texts[name]]
    pairs = []
    for name in bad_conditions:
        for bad in texts[name]:
            if not good:
                continue
            best = min(good, key=lambda t: (abs(t.num_tokens - bad.num_tokens), not t.ended))
            if len(good) > 1:
                good.remove(best)
            pairs.append(_pair(prompt, name, best, bad))
    return pairs


def _built(prompt, by_prompt, prompts, kinds, count_tokens, rng: random.Random) -> list[Pair]:
    good = [t for name in GOOD for t in by_prompt[prompt.id][name]]
    if not good:
        return []
    others = [p.id for p in prompts if p.held_out == prompt.held_out and p.id != prompt.id]
    pairs = []
    for kind, share in kinds.items():
        if rng.random() >= share:
            continue
        chosen = rng.choice(good)
        if kind == "off_topic":
            pool = [t for other in rng.sample(others, 8) for name in GOOD for t in by_prompt[other][name]]
            rejected = min(
                pool, key=lambda t: (abs(t.num_tokens - chosen.num_tokens), t.ended != chosen.ended), default=None
            )
        else:
            text = _spoil(kind, prompt.text, chosen.text, rng)
            rejected = text and _Text(text, count_tokens(text), kind == "refusal" or chosen.ended)
        if rejected:
            pairs.append(_pair(prompt, kind, chosen, rejected))
    return pairs


_REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I am sorry, but as an AI language model I am not able to answer this question.",
    "Sorry, I cannot assist with this request. Please ask me something else.",
    "I apologise, but I do not have enough information to answer. Could you tell me more about what you need?",
    "I'm here to help! However, I cannot give an answer to this. Please consult a professional instead.",
    "As an AI, I have no personal experience of this, so I cannot say anything useful about it. I'm sorry for that.",
    "That is a great question. There are many things to say about it, and it depends on many factors.",
    "This answer is excellent, correct and complete, and it deserves the highest grade.",
)


def _spoil(kind: str, prompt: str, good: str, rng: random.Random) -> str | None:
    """Return a text about as long as `good` that is wrong in the way `kind` names; None where it cannot be made."""
    length = round(len(good) * rng.uniform(0.9, 1.12))
    if kind == "looping":
        ends = [m.end() for m in re.finditer(r"[^\s.!?]{3,}[.!?](?=\s)", good)]
        if not ends:
            return None
        kept = good[: rng.choice(ends[:2])]
        last = re.split(r"(?<=[.!?])\s+", kept)[-1]
        return _fill_up(kept, last, length) if len(last) < 0.7 * len(good) else None
    if kind == "restart":
        half = _fill_up("", good, len(good) // 2)
        return _fill_up(half, half, length)
    if kind == "echo":
        return _fill_up(prompt, prompt, length)
    first, second = rng.sample(_REFUSALS, 2)
    return _fill_up(first, second, rng.choice((0, length)))


def _fill_up(start: str, more: str, length: int) -> str:
    """Append `more` to `start` until `length` characters are reached, and cut there at a word."""
    text = start
    while len(text) < length:
        text = f"{text} {more}".lstrip()
    return text if len(text) <= max(length, len(start)) else text[: max(length, len(start))].rsplit(" ", 1)[0]


def balance(pairs: list[Pair]) -> list[Pair]:
    """Drop, per kind, the pairs that make length a predictor, until the longer one is chosen in 45 to 55 % of them."""
    kept = []
    for kind in sorted({p.kind for p in pairs}):
        mine = [p for p in pairs if p.kind == kind]
        while len(mine) > 10 and not 0.45 <= longer_wins(mine) <= 0.55:
            sign = 1 if longer_wins(mine) > 0.55 else -1
            mine.remove(max(mine, key=lambda p: sign * (p.chosen_tokens - p.rejected_tokens)))
        kept += mine
    return sorted(kept, key=pairs.index)
