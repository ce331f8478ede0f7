"""Two files of answers joined to comparisons, on the user's turns."""

from __future__ import annotations

import json
from collections.abc import Sequence

from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Answer, Comparison
from aad_plugin.texts.answer_files import Row
from aad_plugin.texts.messages import Messages, as_messages, shown_hash, split_replies

_SHOWN = 80


def pair_rows(candidates: Sequence[Row], baselines: Sequence[Row], allow_unmatched: bool = False) -> list[Comparison]:
    """Join two files on the user's turns; ids are the baseline's row numbers.

    Where the two sides' earlier replies differ, each has its own conversation: the user's turns, and a reply to each.

    Raises:
        ConfigError: rows without a counterpart, unless allowed; no row with one.
    """
    by_prompt = {shown_hash(row.prompt, row.marks): row for row in candidates}
    comparisons = []
    without = []
    for row in baselines:
        match = by_prompt.pop(shown_hash(row.prompt, row.marks), None)
        if match is None:
            without.append(row)
        else:
            _check_system(match, row)
            comparisons.append(_comparison(match, row))
    left = list(by_prompt.values())
    if ((without or left) and not allow_unmatched) or not comparisons:
        shown = [(row.place, as_messages(row.prompt)[-1]["content"]) for row in [*left[:1], *without[:1]]]
        examples = "; first: " + "; ".join(f"{place}: {json.dumps(text)[:_SHOWN]}" for place, text in shown)
        hint = "pass --allow-unmatched to judge the others" if comparisons else "are these the same prompts?"
        raise ConfigError(
            f"{len(comparisons)} prompts stand in both files, {len(left)} only in the candidate's and {len(without)} "
            f"only in the baseline's{examples}; {hint}, or name the field that holds the prompt with --prompt-field"
        )
    return comparisons


def _comparison(match: Row, row: Row) -> Comparison:
    prompt = row.prompt if _system(row.prompt) and not _system(match.prompt) else match.prompt
    texts = match.text, row.text
    earlier, others = _earlier(match), _earlier(row)
    if earlier != others or isinstance(match.text, str) != isinstance(row.text, str):
        prompt, _ = split_replies(prompt)
        texts = _replies(match), _replies(row)
    return Comparison(str(row.number), prompt, *texts, pictures=row.pictures, own_id=_other_id(row, match))


def _other_id(row: Row, *others: Row) -> str:
    """What the files call a row where that is not its number; "" where it is, or they call it nothing."""
    return next((one.own_id for one in (row, *others) if one.own_id not in ("", str(row.number))), "")


def _earlier(row: Row) -> list[str]:
    """A side's replies before its last one, as far as the row keeps them."""
    _, said = split_replies(row.prompt)
    said += [] if isinstance(row.text, str) else row.text[:-1]
    return [one.strip() for one in said]


def _replies(row: Row) -> tuple[str, ...]:
    """A side's replies, one to each of the user's turns.

    Raises:
        ConfigError: a turn without a reply, or with several.
    """
    turns, said = split_replies(row.prompt)
    found = (*said, *([row.text] if isinstance(row.text, str) else row.text))
    asked = sum(turn["role"] == "user" for turn in turns)
    if len(found) != asked:
        raise ConfigError(
            f"{row.place} and its counterpart continue different conversations, and it holds {len(found)} replies to "
            f"{asked} user turns, so that no judge can be shown both; expected one reply to each"
        )
    return found


def _system(prompt: str | Messages) -> list[str]:
    """What the system said to the model, turn by turn; nothing where a prompt is the instruction alone."""
    return [turn["content"].strip() for turn in as_messages(prompt) if turn["role"] in ("system", "developer")]


def _check_system(candidate: Row, baseline: Row) -> None:
    """Refuse two answers that were given under different instructions: no judge can be shown both."""
    one, two = _system(candidate.prompt), _system(baseline.prompt)
    if one and two and one != two:  # a file that keeps no system turn does not say what it was
        raise ConfigError(
            f"the answers at {candidate.place} and {baseline.place} were given under different system messages "
            f"({one[0][:60]!r} and {two[0][:60]!r}), and no judge can be shown both; compare answers to the same task"
        )


def single_rows(rows: Sequence[Row]) -> list[Answer]:
    """Rows of one file for a pointwise judge; ids are row numbers."""
    return [Answer(str(row.number), row.prompt, row.text, pictures=row.pictures, own_id=_other_id(row)) for row in rows]
