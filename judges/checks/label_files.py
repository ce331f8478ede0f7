"""Human labels read from files and joined with judged items.

A label file is JSON lines with the item's prompt (or, without a prompt, its "id") and "label": for comparisons
"candidate", "baseline", "tie" or a number in 0..1; for single answers one of the template's labels, or a grade.

A line that holds the answers as well ("candidate", "baseline", "output") is about these: where they stand the other way
round the label is turned with them, and where they are others the file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.judges.checks.label_menu import LabelMenu, menu_of_verdicts
from aad_plugin.judges.items import Answer, Item, Verdict
from aad_plugin.texts.answer_files import OUTPUT_FIELDS
from aad_plugin.texts.messages import Reply, as_text, prompt_hash
from aad_plugin.texts.prompts import PROMPT_FIELDS, prompt_of
from aad_plugin.texts.rows import json_rows
from aad_plugin.texts.thinking import answer_after_thinking

_SHORTEST_CUT = 20  # characters that tell an answer
_LONGEST_SHOWN = 40  # characters of a text in a message
_WHITE_SPACE = 8  # characters by which two files may differ at the ends of one answer


def read_labels(
    path: str | Path,
    verdicts: Sequence[Verdict],
    prompt_field: str | None = None,
    menu: LabelMenu | None = None,
    items: Sequence[Item] = (),
) -> dict[str, Any]:
    """Labels by item id.

    A line belongs to the item of its prompt. An id is looked at where there is no prompt, or where several items share
    it; another data set's ids mean other items.

    Args:
        path: the file. verdicts: whose ids and prompts count; judged or not. prompt_field: as in `read_answers`.
        menu: what labels there are; None finds out from the verdicts.
        items: what is judged, as far as it is at hand; else the answers of a line are known by their lengths alone.
    Raises:
        ConfigError: a line without label or prompt, a label that is none, two lines that disagree about one item, a
        prompt of several items without id, no line that belongs to any item, a line without prompt whose id could be
        either a row's number or its own id, a line about other answers.
    """
    items_by_id, verdicts_by_id = {item.id: item for item in items}, {verdict.id: verdict for verdict in verdicts}
    other_ids = {item.id: item.own_id for item in items if item.own_id}
    menu = menu or menu_of_verdicts(verdicts)
    by_prompt: dict[str, list[str]] = {}
    for verdict in verdicts:
        by_prompt.setdefault(verdict.prompt, []).append(verdict.id)
    found: dict[str, Any] = {}
    places: dict[str, str] = {}
    for place, entry in json_rows(Path(path)):
        if "label" not in entry:
            raise ConfigError(f"{place}: field 'label' is missing; there are {', '.join(entry)}")
        item, by_id = _item_of(entry, place, prompt_field, by_prompt)
        if by_id and other_ids:
            number, own = next(iter(other_ids.items()))
            raise ConfigError(
                f"{place}: an id without its prompt could mean two items here: rows are numbered from 0, and the answers "
                f"have ids of their own (row {number} is {own!r}); add the prompt to each label"
            )
        if item is None or item not in verdicts_by_id:
            continue
        label = _label_of(entry, menu, place, items_by_id.get(item), verdicts_by_id[item])
        if found.setdefault(item, label) != label:
            raise ConfigError(f"{place}: the label {label!r} contradicts {found[item]!r} at {places[item]}; keep one")
        places[item] = place
    if not found:
        raise ConfigError(f"no line of {path} belongs to any of the {len(verdicts)} judged items")
    return found


def _item_of(
    entry: Mapping[str, Any], place: str, prompt_field: str | None, by_prompt: Mapping[str, list[str]]
) -> tuple[str | None, bool]:
    """The item that a line belongs to, and whether its id alone says so."""
    field = prompt_field if prompt_field in entry else None
    own = None if entry.get("id") is None else str(entry["id"])
    if field is None and own is not None and not any(name in entry for name in PROMPT_FIELDS):
        return own, True
    sharing = by_prompt.get(prompt_hash(prompt_of(entry, place, field)), [])
    if len(sharing) > 1 and own not in sharing:
        raise ConfigError(
            f"{place}: {len(sharing)} items share this prompt; say which by their id, e.g. {sharing[0]!r}"
        )
    return (own, True) if len(sharing) > 1 else (next(iter(sharing), None), False)


def _label_of(entry: Mapping[str, Any], menu: LabelMenu, place: str, item: Item | None, verdict: Verdict) -> Any:
    """A line's label of an item's answers, as they stand there."""
    label = menu.read(entry["label"], place)
    if item is None:
        _check_lengths(entry, verdict, place)
    elif _is_turned(entry, item, place):
        return 1 - float(label)
    return label


def _is_turned(entry: Mapping[str, Any], item: Item, place: str) -> bool:
    """Whether a line's candidate is the item's baseline.

    Raises:
        ConfigError: its answers are not the item's.
    """
    if isinstance(item, Answer):
        told = {name: entry[name] for name in OUTPUT_FIELDS if isinstance(entry.get(name), str)}
        if told and not any(_same(text, item.text) for text in told.values()):
            raise _about_others(place, told)
        return False
    told = _sides(entry)
    if all(_same(text, getattr(item, side)) for side, text in told.items()):
        return False
    others = {"candidate": item.baseline, "baseline": item.candidate}
    if all(_same(text, others[side]) for side, text in told.items()):
        return True
    raise _about_others(place, told)


def _check_lengths(entry: Mapping[str, Any], verdict: Verdict, place: str) -> None:
    """Of answers that are not at hand the verdict still says how long they were."""
    known = {"candidate": verdict.candidate_length, "baseline": verdict.baseline_length}
    if verdict.label is not None or verdict.grade is not None:
        known = dict.fromkeys(OUTPUT_FIELDS, verdict.candidate_length)
    told = {name: _shown(entry[name]) for name in known if isinstance(entry.get(name), str)}
    sizes = {name: len(text) for name, text in told.items()}
    apart = [name for name, size in sizes.items() if abs(size - known[name]) > _WHITE_SPACE]
    if not any(known.values()) or not apart:
        return
    other = {"candidate": verdict.baseline_length, "baseline": verdict.candidate_length}
    turned = len(sizes) == 2 and all(abs(size - other.get(name, size)) <= _WHITE_SPACE for name, size in sizes.items())
    # A shorter one may be a conversation's last reply, and one longer by its line breaks a conversation joined.
    if turned or any(sizes[name] - _breaks(told[name]) > known[name] + _WHITE_SPACE for name in apart):
        raise _about_others(place, told, " (by their lengths)")


def _sides(entry: Mapping[str, Any]) -> dict[str, str]:
    return {side: entry[side] for side in ("candidate", "baseline") if isinstance(entry.get(side), str)}


def _same(text: str, reply: Reply) -> bool:
    """Whether a line's text is an answer as it stands or as it is judged; of a conversation, all of it or its end."""
    whole = [reply] if isinstance(reply, str) else [as_text(reply), reply[-1]]
    own = _words(_shown(text))
    if _is_cut(own):
        return any(_words(_shown(one)).startswith(own.rstrip("….")) for one in whole)
    return any(own == _words(_shown(one)) for one in whole)


def _breaks(text: str) -> int:
    """Characters of white space that breaks lines."""
    return sum(map(len, re.findall(r"\s*\n\s*", text)))


def _words(text: str) -> str:
    """White space is a file's matter, not an answer's."""
    return " ".join(text.split())


def _is_cut(text: str) -> bool:
    """Whether a text was shortened for those who label it."""
    return len(text) > _SHORTEST_CUT and text.rstrip().endswith(("…", "..."))


def _shown(text: str) -> str:
    return answer_after_thinking(text) or ""


def _about_others(place: str, told: Mapping[str, str], how: str = "") -> ConfigError:
    arrived = ", ".join(f"{name} {_shortly(text)!r}" for name, text in told.items())
    return ConfigError(
        f"{place}: the {' and '.join(told)} of this label do not match what is judged{how}, got {arrived}: are candidate "
        "and baseline swapped, or is it another run's? Pass labels of the same answers, or leave the texts out where a "
        "label holds for the prompt's answers of this run; columns that name the systems need other names"
    )


def _shortly(text: str) -> str:
    words = _words(text)
    return words if len(words) <= _LONGEST_SHOWN else words[:_LONGEST_SHOWN] + "…"
