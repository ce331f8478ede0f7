"""What judges said of one comparison: verdicts, their figures, and the judge's words from the store."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aad_plugin.judges.items import Verdict
from aad_plugin.judges.leagues.battles import system_name
from aad_plugin.judges.statistics.results import verdict_of
from aad_plugin.judges.statistics.summary import summarize
from aad_plugin.report.documents import Document, read_lines

CANDIDATE = "candidate"
"""Name of a candidate whose summary gives it none."""


@dataclass(frozen=True)
class Words:
    """One reply of a judge: its text (empty for judges that only score), and p(the text shown first is better)."""

    text: str
    p: float | None
    reason: str | None
    model: str


@dataclass
class Comparison:
    """Verdicts on one candidate's answers, against a rival's or (pointwise) by themselves.

    Args:
        candidate, rival: names of the answers; rival is empty for a pointwise judge.
        figures: as `Summary.to_json` gives them.
        complete: whether all verdicts could be read; if not, the figures are of those that could.
        words: ruling key -> the judge's reply.
    """

    candidate: str
    rival: str
    figures: dict[str, Any]
    verdicts: list[Verdict] = field(default_factory=list)
    complete: bool = True
    words: dict[str, Words] = field(default_factory=dict)

    @property
    def judge(self) -> str:
        """The judge's name."""
        return str(self.figures.get("judge") or "")

    @property
    def judge_mark(self) -> str:
        """The judge's name with the beginning of its fingerprint, which tells judges of one name apart."""
        fingerprint = self.verdicts[0].judge_fingerprint[:12] if self.verdicts else ""
        return f"{self.judge} {fingerprint}".strip()

    def of_one_of(self, names: Sequence[str]) -> Comparison:
        """Name the candidate as the answers are named: where no file said which, it is the first."""
        if self.candidate not in names:
            self.candidate = names[0]
        return self

    def answer_among(self, documents: Sequence[Document]) -> str | None:
        """Name of the answers that the candidate's were: those of that name, or else the first, that are as long as the
        judge saw them on every prompt; None where there are none: another model's verdicts are not taken for theirs.

        Args:
            documents: with answers, those alone that have verdicts.
        """
        seen: dict[str, set[int]] = {}
        for (prompt, _), length in self._lengths().items():
            seen.setdefault(prompt, set()).add(length)
        names = list(documents[0].answers)
        if not seen:  # nothing to compare: a name says it, or nobody has said anything
            return self.candidate if self.candidate in names else names[0] if self.candidate == CANDIDATE else None
        here: dict[tuple[str, str], set[int]] = {}
        for document in documents:
            for name, answer in document.answers.items():
                here.setdefault((name, document.prompt_hash), set()).add(answer.judged_length)
        about = {document.prompt_hash for document in documents}
        known = {prompt: lengths for prompt, lengths in seen.items() if prompt in about}
        matching = [
            name
            for name in names
            if all(lengths <= here.get((name, prompt), set()) for prompt, lengths in known.items())
        ]
        if self.candidate in names:
            return self.candidate if self.candidate in matching else None
        return matching[0] if matching else None

    def _lengths(self) -> dict[tuple[str, str], int]:
        """(prompt, item) -> characters that the judge saw; of MT-Bench's two turns the second, which is all of it."""
        found: dict[tuple[str, str], int] = {}
        for verdict in self.verdicts:
            item = verdict.prompt, verdict.id.removesuffix("-1").removesuffix("-2")
            if verdict.candidate_length:
                found[item] = max(found.get(item, 0), verdict.candidate_length)
        return found

    def by_document(self, documents: Mapping[str, Document]) -> dict[str, list[Verdict]]:
        """Document key -> its verdicts (one per turn where turns were judged)."""
        keys = {document.id: key for key, document in documents.items()}
        keys |= {document.prompt_hash: key for key, document in documents.items()}
        found: dict[str, list[Verdict]] = {}
        for verdict in self.verdicts:
            # A judged run puts the document's id where `aad judge` puts the hash of the prompt.
            key = keys.get(verdict.prompt)
            if key is not None:
                found.setdefault(key, []).append(verdict)
        return found


def read_comparison(folder: Path, problems: list[str], rival: str | None = None) -> Comparison | None:
    """Read ``verdicts.jsonl``, ``summary.json`` and ``store.jsonl`` of one folder.

    Args:
        problems: gets one line for what cannot be read. rival: its name where the folder tells.
    Returns:
        None where there is neither a verdict nor a summary.
    """
    summary = _summary(folder / "summary.json", problems)
    before = len(problems)
    verdicts = _verdicts(folder / "verdicts.jsonl", problems)
    complete = len(problems) == before
    if not verdicts and not summary:
        return None
    if verdicts and (not complete or not summary):
        summary = {**summary, **summarize(verdicts).to_json()}
    candidate = _side(summary.get("candidate"), CANDIDATE)
    return Comparison(
        candidate=candidate,
        rival=rival or (_side(summary["baseline"], "baseline") if summary.get("baseline") else ""),
        figures=summary,
        verdicts=verdicts,
        complete=complete,
        words=_words(folder / "store.jsonl", {key for verdict in verdicts for key in verdict.rulings}),
    )


def _side(spec: Any, default: str) -> str:
    """The name of an answer from what `aad judge` was given, as a league names it."""
    return system_name(str(spec or default))


def _summary(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path} is not JSON ({error}): its figures are computed again")
        return {}
    return content if isinstance(content, dict) else {}


def _verdicts(path: Path, problems: list[str]) -> list[Verdict]:
    if not path.is_file():
        return []
    found = []
    for place, row in read_lines(path, problems):
        try:
            found.append(verdict_of(row))
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"{place} is no verdict ({type(error).__name__}: {error}): left out")
    return found


def _words(path: Path, keys: set[str]) -> dict[str, Words]:
    """The judge's replies; a torn line of the store is what its own reader skips too."""
    if not keys or not path.is_file():
        return {}
    found: dict[str, Words] = {}
    for _, row in read_lines(path, []):
        key = row.get("key")
        if key in keys and (row.get("reason") is None or key not in found):
            p = row.get("p")
            number = float(p) if isinstance(p, int | float) and math.isfinite(p) else None
            found[key] = Words(str(row.get("reply", "")), number, row.get("reason"), str(row.get("model", "")))
    return found
