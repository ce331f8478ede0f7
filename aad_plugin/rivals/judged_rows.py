"""A task's documents with their answers, as a judged run keeps them and as a judge is asked about them.

A row is a document of `RivalTask`: id, prompt, answers by name (a reply per turn), truncated by name, and where there are
any pictures, and earlier replies of an opponent's own side of the conversation.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.files.whole import write_text
from aad_plugin.judges.items import Answer, Comparison
from aad_plugin.sources.images import read_picture
from aad_plugin.texts.messages import Reply, split_replies

ANSWERS_FILE = "answers.jsonl"
PICTURES_FOLDER = "pictures"
Row = Mapping[str, Any]


def write_answers(folder: Path, rows: Sequence[Row]) -> Path:
    """Write one line per document: id, prompt, outputs by name, whether each was truncated."""
    path = folder / ANSWERS_FILE
    lines = []
    for row in rows:
        outputs = {name: reply_of(replies) for name, replies in row["answers"].items()}
        line = {"id": row["id"], "prompt": row["prompt"], "outputs": outputs, "truncated": row["truncated"]}
        line |= {"earlier": row["earlier"]} if row.get("earlier") else {}
        line |= _save_pictures(folder, row)
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))
    return path


def _pictures(row: Row) -> tuple[Any, ...]:
    """What a document's prompt showed, which a judge is shown, too, or is not asked."""
    return tuple(row.get("pictures") or ())


def _save_pictures(folder: Path, row: Row) -> dict[str, list[str]]:
    """Write a document's pictures beside the answers, each once, for whoever judges them later; return their entry."""
    names = []
    for number, given in enumerate(_pictures(row), start=1):
        picture = read_picture(given, f"document {row['id']}, picture {number}")
        name = f"{PICTURES_FOLDER}/{picture.digest}.png"
        (folder / PICTURES_FOLDER).mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            picture.image.save(folder / name)
        names.append(name)
    return {"pictures": names} if names else {}


def reply_of(replies: Sequence[str]) -> Reply:
    """One reply as a text, several as a tuple of one per turn."""
    return replies[0] if len(replies) == 1 else tuple(replies)


def place_of(row: Row) -> tuple[int, str]:
    """By which documents are put in order: ids that are numbers as numbers, which AlpacaEval's difficulties go by."""
    return (int(row["id"]), "") if str(row["id"]).isdecimal() else (sys.maxsize, str(row["id"]))


def comparisons_of(row: Row, candidate: str, opponent: str) -> Iterator[tuple[int, Comparison]]:
    """(turn, comparison) for every turn of a document; none where the opponent has no answer."""
    ours, theirs = row["answers"][candidate], row["answers"].get(opponent)
    for turn in range(1, len(ours) + 1 if theirs else 1):
        number = f"{row['id']}-turn{turn}" if len(ours) > 1 else row["id"]
        prompt, one, other = _until(row, turn), ours[:turn], theirs[:turn]
        earlier = row.get("earlier", {}).get(opponent)
        asked, said = split_replies(prompt)
        if earlier and said and earlier != said:  # each side held its own conversation
            prompt, one, other = asked, [*said, *one], [*earlier, *other]
        yield turn, Comparison(number, prompt, reply_of(one), reply_of(other), pictures=_pictures(row))


def graded_of(row: Row, name: str) -> Iterator[tuple[int, Answer]]:
    """(turn, answer to grade) for every turn of a document, with the replies up to it."""
    replies = row["answers"][name]
    for turn in range(1, len(replies) + 1):
        yield (
            turn,
            Answer(f"{row['id']}-turn{turn}", _until(row, turn), reply_of(replies[:turn]), pictures=_pictures(row)),
        )


def _until(row: Row, turn: int) -> Any:
    """The prompt up to a turn: all of it unless the answer is a reply per turn."""
    return row["prompt"] if len(next(iter(row["answers"].values()))) == 1 else row["prompt"][:turn]
