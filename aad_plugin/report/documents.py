"""Documents and their answers, read from lm-eval's samples or from a judged run's answers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.explain.records import ShownPicture
from aad_plugin.explain.trace_files import AnswerTrace, text_hash
from aad_plugin.judges.sitting.pictures import marks_by
from aad_plugin.texts.messages import Messages, as_messages, digest, prompt_hash, shown_hash
from aad_plugin.texts.parts import shown_columns
from aad_plugin.texts.prompts import prompt_of
from aad_plugin.texts.samples import in_turns, sample_answers, shows_pictures
from aad_plugin.texts.thinking import answer_after_thinking


@dataclass
class AnswerText:
    """One answer. texts: one reply per turn. truncated: ran into its budget; None where unknown."""

    texts: tuple[str, ...]
    truncated: bool | None = None
    rendered_hash: str = ""

    @property
    def text(self) -> str:
        """The answer as one text."""
        return (
            self.texts[0]
            if len(self.texts) == 1
            else "\n\n".join(f"[turn {i}]\n{t}" for i, t in enumerate(self.texts, 1))
        )

    @property
    def judged_length(self) -> int:
        """Characters that a judge is shown: of all replies, without their thinking."""
        return sum(len(answer_after_thinking(text) or "") for text in self.texts)

    def trace_among(
        self, traces: Mapping[str, Sequence[AnswerTrace]], task: str, number: int | None
    ) -> AnswerTrace | None:
        """The trace of the (first) reply: of the same text, after the same rendered prompt or for the same task; of its own
        document before others, since pictures may tell prompts of one text apart."""
        found = sorted(traces.get(text_hash(self.texts[0]), ()), key=lambda one: one.doc_id != number)
        for trace in found:
            if self.rendered_hash in ("", trace.prompt_hash) and (self.rendered_hash or trace.task == task):
                return trace
        return None


@dataclass
class Document:
    """One document of a task and what was answered.

    Args:
        key: what two runs share: lm-eval's hash of the document, or its id. id: for people.
        prompt: as the user put it; as the model saw it where the document's own words are no part of that.
        prompt_hash: of the user's turns, with the pictures where a judged run kept them, as verdicts carry it.
        rendered_hash: lm-eval's hash of the prompt as the model saw it; empty without samples.
        asked: hash of everything that a task of lm-eval asked about this document; empty for judged tasks.
        target: the gold answer, where there is one. values: metric (with its filter) -> number of this document.
        number: lm-eval's, within the task. shows_pictures: whether the prompt showed some. pictures: those, small, where
            the run kept them.
    """

    key: str
    id: str
    prompt: str | Messages
    prompt_hash: str
    rendered_hash: str = ""
    asked: str = ""
    target: str = ""
    answers: dict[str, AnswerText] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    number: int | None = None
    shows_pictures: bool = False
    pictures: tuple[ShownPicture, ...] = ()

    @property
    def cluster(self) -> str:
        """What documents have in common that ask the same and therefore are one draw: what was asked, with its pictures.

        A document whose pictures are not known is a draw of its own.
        """
        if self.pictures:
            return digest([self.asked or self.prompt_hash, *(one.digest for one in self.pictures)])
        return self.key if self.shows_pictures else self.asked or self.prompt_hash

    @property
    def prompt_text(self) -> str:
        """The prompt as one text."""
        turns = as_messages(self.prompt)
        if len(turns) == 1:
            return turns[0]["content"]
        return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)

    def same_answers(self, other: Document) -> bool:
        """Whether the answers under names that both have are the same."""
        shared = set(self.answers) & set(other.answers)
        return bool(shared) and all(self.answers[name].texts == other.answers[name].texts for name in shared)


def read_samples(path: Path, problems: list[str]) -> dict[str, Document]:
    """Read lm-eval's samples; rows of several filters are one document.

    Args:
        problems: gets one line for what cannot be read; the rest is returned.
    """
    documents: dict[str, Document] = {}
    for place, row in read_lines(path, problems):
        try:
            document = _document(row, place)
        except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"{place} is no sample of lm-eval ({type(error).__name__}: {error}): left out")
            continue
        held = documents.setdefault(document.key, document)
        held.values |= document.values
    return documents


def read_answers_file(path: Path, problems: list[str]) -> dict[str, Document]:
    """Read a judged run's ``answers.jsonl``; arguments as above."""
    documents = {}
    for place, row in read_lines(path, problems):
        try:
            hidden = shown_columns(row)  # pictures stand beside the prompt, and are not read
            prompt = prompt_of({name: value for name, value in row.items() if name not in hidden}, place)
            key = str(row["id"])
            truncated = row.get("truncated") or {}
            answers = {name: AnswerText(_texts(texts), truncated.get(name)) for name, texts in row["outputs"].items()}
            # A judged run names its pictures by their digests.
            marks = marks_by([Path(str(name)).stem for name in row.get("pictures") or ()])
            documents[key] = Document(
                key, key, prompt, shown_hash(prompt, marks), answers=answers, shows_pictures=bool(hidden)
            )
        except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"{place} holds no answers ({type(error).__name__}: {error}): left out")
    return documents


def read_scores(path: Path, documents: Mapping[str, Document], problems: list[str]) -> None:
    """Add a judged run's ``scores.jsonl`` (rewards and grades, by metric) to the values of the documents with those ids."""
    if not path.is_file():
        return
    by_id = {document.id: document for document in documents.values()}
    for _, row in read_lines(path, problems):
        document = by_id.get(str(row.get("id")))
        for name, value in row.items():
            if document is not None and name != "id" and _is_score(value):
                document.values[f"{name},none"] = float(value)


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_lines(path: Path, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file, line n", object); a line that is none is named among the problems and left out."""
    number = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                place = f"{path}, line {number}"
                try:
                    row = json.loads(line)
                except ValueError as error:
                    problems.append(f"{place} is not JSON ({error}): left out")
                    continue
                if isinstance(row, dict):
                    yield place, row
                else:
                    problems.append(f"{place} must be an object, got {type(row).__name__}: left out")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        problems.append(f"cannot read {path} after line {number}: {error}")


def _opened(path: Path) -> Any:
    import gzip

    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8")


def _document(row: Mapping[str, Any], place: str) -> Document:
    doc = row["doc"] if isinstance(row["doc"], dict) else {"doc": row["doc"]}
    rendered, asked = _rendered(row), ""
    judged = row.get("judged", row.get("bypass"))
    if isinstance(judged, dict) and "answers" in judged:  # a task of this package
        prompt = judged["prompt"]
        truncated = judged.get("truncated") or {}
        answers = {name: AnswerText(_texts(texts), truncated.get(name)) for name, texts in judged["answers"].items()}
    else:
        prompt = _prompt(doc, rendered, place)
        answers = _answers(row, doc, prompt, place)
        asked = _asked(row)
    for answer in answers.values():
        answer.rendered_hash = row.get("prompt_hash", "")
    number = row.get("doc_id")
    chosen = row.get("filter", "none")
    values = {}
    for name in row.get("metrics", ()):
        value = row.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            values[f"{name},{chosen}"] = float(value)
    return Document(
        key=str((None if _holds_addresses(doc) else row.get("doc_hash")) or number),
        id=str(doc.get("id", number)),
        prompt=prompt if _stands_in(prompt, rendered) else rendered,
        prompt_hash=prompt_hash(prompt),
        rendered_hash=row.get("prompt_hash", ""),
        asked=asked,
        target=str(row.get("target", "") or ""),
        answers=answers,
        values=values,
        number=number if isinstance(number, int) else None,
        shows_pictures=shows_pictures(row) or bool(shown_columns(doc)),
    )


def _holds_addresses(doc: Mapping[str, Any]) -> bool:
    """Whether lm-eval wrote and hashed a picture as Python shows it, "<PIL… at 0x7f…>": another hash in every run."""
    values = [one for value in doc.values() for one in (value if isinstance(value, list) else [value])]
    return any(isinstance(value, str) and value.startswith("<PIL.") for value in values)


def _answers(
    row: Mapping[str, Any], doc: Mapping[str, Any], prompt: str | Messages, place: str
) -> dict[str, AnswerText]:
    found = {}
    choices = []
    for number, (name, answer) in enumerate(sample_answers(row, place)):
        if isinstance(answer, str):
            _, texts = in_turns(doc, prompt, answer)
            found[name or ("model" if len(row["resps"]) == 1 else f"answer {number + 1}")] = AnswerText(_texts(texts))
        elif isinstance(row["resps"][number], list) and row["resps"][number]:
            choices.append((_score(row["resps"][number]), _continuation(row, number)))
    if choices and not found:
        found["model"] = AnswerText((max(choices)[1],))  # log-likelihoods: the continuation that scored best
    return found


def _score(response: Any) -> float:
    """The log-likelihood in lm-eval's nested lists, which it writes as texts or numbers."""
    while isinstance(response, list):
        response = response[0]
    return float(response)


def _continuation(row: Mapping[str, Any], number: int) -> str:
    arguments = row.get("arguments")
    one = arguments.get(f"gen_args_{number}", {}) if isinstance(arguments, dict) else {}
    return str(one.get("arg_1", f"choice {number + 1}"))


def _rendered(row: Mapping[str, Any]) -> str:
    arguments = row.get("arguments")
    if isinstance(arguments, dict):
        return str(arguments.get("gen_args_0", {}).get("arg_0", ""))
    return str(arguments[0][0]) if isinstance(arguments, list) and arguments else ""


def _asked(row: Mapping[str, Any]) -> str:
    """Hash of the texts of a row's requests: the prompt, and the continuations where these are scored."""
    arguments = row.get("arguments")
    requests = list(arguments.values()) if isinstance(arguments, dict) else arguments or []
    given = [list(one.values()) if isinstance(one, dict) else one for one in requests]
    texts = [text for one in given for text in one[:2] if isinstance(text, str)]
    return digest(texts) if texts else str(row.get("prompt_hash", ""))


def _stands_in(prompt: str | Messages, rendered: str) -> bool:
    """Whether a document's words are part of what the model saw: copa's "question" is the word "cause" or "effect"."""
    if not isinstance(prompt, str) or not rendered:
        return True
    return re.search(rf"(?<!\w){re.escape(prompt.strip())}(?!\w)", rendered) is not None


def _prompt(doc: Mapping[str, Any], rendered: str, place: str) -> str | Messages:
    """The user's words where the document has them under a usual name, else what the model saw."""
    try:
        hidden = shown_columns(doc)
        return prompt_of({name: value for name, value in doc.items() if name not in hidden}, place)
    except ConfigError:
        return rendered or json.dumps(doc, ensure_ascii=False)


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"an answer is a text or one text per turn, got {value!r}")
    return texts
