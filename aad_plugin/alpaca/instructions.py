"""The instructions that are answered: AlpacaEval's 805, a part of them, or any other set of one's own.

``official.tsv`` holds, in the official order, each instruction's source set, the first 16 hex digits of the SHA-256 of
instruction and of the baseline's output (gpt4_1106_preview), and the hash by which verdicts name a prompt: enough to
recognise them, without their text, whose licence (CC-BY-NC-4.0) keeps it out of this package.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.texts.parts import refuse_shown
from aad_plugin.texts.prompts import check_text
from aad_plugin.texts.rows import json_rows

BASELINE = "gpt4_1106_preview"
NUM_OFFICIAL = 805
FIELDS = ("dataset", "instruction", "output", "generator")
_SHOWN = 60
_BASELINE_FILE = "alpaca_eval_gpt4_baseline.json"
_DATA: dict[str, Any] = {
    "hub": "tatsu-lab/alpaca_eval",
    "revision": "2edc6fad8be6b14ea7230aabfd08188da6b8b814",
    "files": {"test": [_BASELINE_FILE]},
    "local": {"test": [_BASELINE_FILE]},
}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction by its marks.

    Args:
        dataset: source set, e.g. "koala". mark: of the text. reference: mark of the reference's output, None without.
        prompt: hash by which verdicts name an official one, see `prompt_hash`. text: None where only marks are known.
    """

    dataset: str
    mark: str
    reference: str | None = None
    prompt: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class InstructionSet:
    """Instructions in the order in which outputs stand.

    Args:
        kind: "official" (all 805), "partial" (some of them) or "other".
        place: file they were read from; "" for the marks this package ships.
        references: rows with all four fields, where the file has outputs of a reference; else empty.
    """

    rows: tuple[Instruction, ...]
    kind: str
    place: str = ""
    references: tuple[Mapping[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """16 hex digits that differ where any instruction or their order differs."""
        return text_mark("\n".join(row.mark for row in self.rows))

    @property
    def texts(self) -> list[str]:
        """The instructions; only of a set that was read from a file or from the hub."""
        return [row.text or "" for row in self.rows]

    @property
    def label(self) -> str:
        """What a result on this set is called."""
        return {
            "official": f"AlpacaEval, all {NUM_OFFICIAL} instructions",
            "partial": f"a part of AlpacaEval: {len(self)} of {NUM_OFFICIAL} instructions",
            "other": f"not AlpacaEval's instructions: {len(self)} others",
        }[self.kind]

    def first(self, number: int) -> InstructionSet:
        """The first so many; of AlpacaEval's, a part."""
        kind = "partial" if self.kind == "official" and number < len(self) else self.kind
        return InstructionSet(self.rows[:number], kind, self.place, self.references[:number])

    @classmethod
    def official(cls) -> InstructionSet:
        """AlpacaEval's 805 by their marks, without texts."""
        return cls(_official(), "official")


def refuse_other_order(prompts: Mapping[str, str]) -> None:
    """Refuse verdicts to which AlpacaEval's difficulties do not belong: they go by row number.

    Args:
        prompts: item id -> hash of its prompt, of all verdicts; where a task of lm-eval wrote the document's number in its
            place, the numbers are the data set's.
    Raises:
        ConfigError: as many as AlpacaEval has, but other prompts, or in another order.
    """
    official = [row.prompt for row in _official()]
    if len(prompts) != len(official) or all(number == prompt for number, prompt in prompts.items()):
        return
    if [prompts.get(str(number)) for number in range(len(official))] == official:
        return
    known = sum(prompt in set(official) for prompt in prompts.values())
    told = "all stand in another order" if known == len(official) else f"{known} are AlpacaEval's"
    raise ConfigError(
        f"AlpacaEval's instruction difficulties go by row number, and of these {len(prompts)} prompts {told}: put the rows "
        "of the baseline's file into the order of AlpacaEval's instructions, or leave --difficulties and --df-gamed out"
    )


def text_mark(text: str) -> str:
    """First 16 hex digits of the SHA-256 of a text, exactly as it stands."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def is_text(value: Any) -> bool:
    """Whether a value from JSON is a text; half a surrogate pair, which JSON can write, is none."""
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):
        return False
    return isinstance(value, str)


def load_instructions(source: str | Path | None, *, partial: bool = False) -> InstructionSet:
    """Read instructions; AlpacaEval's are put into the official order.

    Args:
        source: JSON list or JSON lines of objects with "instruction" and, optionally, "dataset", "output", "generator";
            None: AlpacaEval's own file from ``AAD_DATA_DIR`` or from the hub, at a pinned revision (blocks on it).
        partial: allow fewer than AlpacaEval's 805.
    Raises:
        ConfigError: unreadable or empty file, a missing or empty instruction, one that comes twice, AlpacaEval's set
            with changes, or a part of it without `partial`.
    """
    entries = list(json_rows(Path(source))) if source is not None else _from_hub()
    place = str(source) if source is not None else f"{_DATA['hub']} on the hub"
    if not entries:
        raise ConfigError(f"{place} holds no instructions")
    rows = [_row(entry, where, Path(place).stem) for where, entry in entries]
    _refuse_twice(rows, [where for where, _ in entries])
    known = {row.mark: number for number, row in enumerate(_official())}
    kind = _kind(rows, known, place, partial)
    order = list(range(len(rows)))
    if kind != "other":
        order.sort(key=lambda number: known[rows[number].mark])
        # The reference is the official baseline, whoever's outputs the file holds.
        marks = [_official()[known[row.mark]] for row in rows]
        rows = [
            Instruction(mark.dataset, mark.mark, mark.reference, mark.prompt, row.text)
            for mark, row in zip(marks, rows, strict=True)
        ]
    full = all(isinstance(entry.get("output"), str) and entry.get("generator") for _, entry in entries)
    references = [
        {**dict.fromkeys(FIELDS, ""), **entry, "dataset": row.dataset}
        for (_, entry), row in zip(entries, rows, strict=True)
    ]
    return InstructionSet(
        tuple(rows[number] for number in order),
        kind,
        place,
        tuple({name: references[number][name] for name in FIELDS} for number in order) if full else (),
    )


@functools.cache
def _official() -> tuple[Instruction, ...]:
    lines = resources.files("aad_plugin.alpaca").joinpath("official.tsv").read_text(encoding="utf-8").splitlines()
    return tuple(Instruction(*line.split("\t")) for line in lines)


def _from_hub() -> list[tuple[str, Mapping[str, Any]]]:
    from aad_plugin.tasks.data import DATA_DIR, rows_of

    try:
        rows = [row for _, file in rows_of(_DATA, "test") for row in file]
    except ConfigError as error:
        raise ConfigError(
            f"AlpacaEval's instructions cannot be had from the hub ({error.__cause__ or error}); pass --instructions FILE "
            f"(their {_BASELINE_FILE}), or set {DATA_DIR} to a folder that holds it"
        ) from error
    if not rows:
        raise ConfigError(f"the folder in {DATA_DIR} holds no {_BASELINE_FILE}; pass --instructions FILE")
    return [(f"{_DATA['hub']}, row {number}", row) for number, row in enumerate(rows, start=1)]


def _row(entry: Mapping[str, Any], place: str, default: str) -> Instruction:
    text = entry.get("instruction")
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{place}: expected an object with an instruction, a text, got {json.dumps(text)[:_SHOWN]}")
    check_text(place, text)
    refuse_shown(entry, None, place)
    dataset, output = entry.get("dataset", default), entry.get("output")
    if not isinstance(dataset, str) or not isinstance(output, str | None):
        raise ConfigError(f"{place}: dataset and output must be texts, got {json.dumps([dataset, output])[:_SHOWN]}")
    return Instruction(dataset, text_mark(text), text_mark(output) if output is not None else None, text=text)


def _refuse_twice(rows: Sequence[Instruction], places: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for row, place in zip(rows, places, strict=True):
        if row.mark in seen:
            raise ConfigError(f"{place}: this instruction stands at {seen[row.mark]} already; each may come once")
        seen[row.mark] = place


def _kind(rows: Sequence[Instruction], known: Mapping[str, int], place: str, partial: bool) -> str:
    strange = [number for number, row in enumerate(rows) if row.mark not in known]
    if len(strange) == len(rows):
        return "other"
    if strange:
        first = rows[strange[0]]
        raise ConfigError(
            f"{place} is a changed instruction set: {len(rows) - len(strange)} of its {len(rows)} rows are AlpacaEval's, "
            f"{len(strange)} are not; first: row {strange[0] + 1}, {json.dumps(first.text)[:_SHOWN]}. Restore AlpacaEval's "
            "texts, character by character, or leave them out of a set of your own"
        )
    if len(rows) == NUM_OFFICIAL:
        return "official"
    if not partial:
        raise ConfigError(
            f"{place} holds {len(rows)} of AlpacaEval's {NUM_OFFICIAL} instructions; a result on a part of them is no "
            "AlpacaEval result: pass all of them, or --partial to have it labelled so"
        )
    return "partial"
