"""Human labels read from files and joined with judged items.

A label file is JSON lines with the item's prompt (or, without a prompt, its "id") and "label": for comparisons
"candidate", "baseline", "tie" or a number in 0..1; for single answers one of the template's labels, or a grade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.judges.checks.label_menu import LabelMenu, menu_of_verdicts
from aad_plugin.judges.items import Verdict
from aad_plugin.texts.messages import prompt_hash
from aad_plugin.texts.prompts import PROMPT_FIELDS, prompt_of
from aad_plugin.texts.rows import json_rows


def read_labels(
    path: str | Path,
    verdicts: Sequence[Verdict],
    prompt_field: str | None = None,
    menu: LabelMenu | None = None,
    other_ids: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Labels by item id.

    A line belongs to the item of its prompt. An id is looked at where there is no prompt, or where several items share
    it; another data set's ids mean other items.

    Args:
        path: the file. verdicts: whose ids and prompts count; judged or not. prompt_field: as in `read_answers`.
        menu: what labels there are; None finds out from the verdicts.
        other_ids: item id -> what the files of answers call it, where that is another id.
    Raises:
        ConfigError: a line without label or prompt, a label that is none, two lines that disagree about one item, a
        prompt of several items without id, no line that belongs to any item, a line without prompt whose id could be
        either a row's number or its own id.
    """
    menu = menu or menu_of_verdicts(verdicts)
    by_prompt: dict[str, list[str]] = {}
    for verdict in verdicts:
        by_prompt.setdefault(verdict.prompt, []).append(verdict.id)
    ids = {verdict.id for verdict in verdicts}
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
        if item is None or item not in ids:
            continue
        label = menu.read(entry["label"], place)
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
