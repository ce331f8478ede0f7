"""``alpaca_eval:`` judges: annotators of the alpaca_eval package, and its own length-controlled win rate.

alpaca_eval asks, retries and parses by itself; here its annotations become rulings, both orders of them, so that store
and statistics are those of every other judge. Its package runs in a process of its own (`alpaca_worker.py`).
"""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, first_line, nearest
from aad_plugin.judges.asking.endpoint import Endpoint
from aad_plugin.judges.items import Question, Ruling
from aad_plugin.judges.sitting.judge import Judge
from aad_plugin.judges.sitting.sitting import Sitting
from aad_plugin.judges.statistics.official import Failed, Worker
from aad_plugin.texts.messages import Messages, as_text, digest

ORDERS = ("both", "seeded")


class AlpacaEvalJudge(Judge):
    """Pairwise judge made of an alpaca_eval annotator.

    Args:
        name: a folder with a ``configs.yaml``, or the name of an annotator that comes with alpaca_eval. Keys and base
            URLs are alpaca_eval's own matter (OPENAI_API_KEY, OPENAI_CLIENT_CONFIG_PATH).
        concurrency: alpaca_eval's requests in flight, and how many a kill can cost; its default is 5.
        order: "both" asks for each pair in both orders; "seeded" once, in the order alpaca_eval itself draws from the
            instruction, as its leaderboards do.
    """

    kind = "pairwise"
    template_hash: str = ""
    fingerprint: str = ""
    price = None
    sides = ("m", "M")

    def __init__(self, name: str, *, concurrency: int = 5, order: str = "both"):
        if not (isinstance(concurrency, int) and concurrency >= 1):
            raise ConfigError(f"concurrency must be a whole number of at least 1, got {concurrency!r}")
        if order not in ORDERS:
            raise ConfigError(f"order must be {' or '.join(ORDERS)}, got {order!r}")
        self.both_orders = order == "both"
        self.is_seeded = order == "seeded"
        folder = Path(name)
        if folder.is_dir() and not (folder / "configs.yaml").is_file():
            raise ConfigError(f"{folder} is no alpaca_eval annotator: it needs a configs.yaml")
        home = folder.resolve() if folder.is_dir() else _installed(name)
        self.name = f"alpaca_eval:{folder.name}"
        self.annotator = str(home) if folder.is_dir() else name
        self.concurrency = concurrency
        seeded = {} if self.both_orders else {"order": order}
        marks = [self.name, *(_asked_by(home) if home else [])]
        self.fingerprint = digest({"kind": "alpaca_eval", "annotator": marks, "version": _version()} | seeded)

    def prepare(self, sitting: Sitting) -> None:
        """Nothing to find out: the annotator's configuration says how it asks."""

    def rule(self, questions: Iterable[Question], sitting: Sitting) -> None:
        """Have every question annotated, so many at a time as are in flight, and record p(first better).

        Raises:
            JudgeUnavailable: alpaca_eval fails on a whole batch and on each of its pairs alone.
        """
        questions = iter(questions)
        with Worker({"OPENAI_MAX_CONCURRENCY": str(self.concurrency)}, Endpoint().clean) as worker:
            while batch := list(islice(questions, self.concurrency)):
                started = time.time()
                for rows in _rounds([self._pair(question) for question in batch]):
                    for question, found in self._annotated(worker, [batch[row] for row in rows]):
                        seconds = (time.time() - started) / len(batch)
                        sitting.record(self._ruling(question, found, seconds))

    def _annotated(self, worker: Worker, batch: list[Question]) -> Iterator[tuple[Question, tuple[Any, str] | Failed]]:
        """(preference, reply) of each question; of a batch that fails each is tried alone, to know which one it was."""
        try:
            yield from zip(batch, self._ask(worker, batch), strict=True)
            return
        except Failed as failed:
            last = failed
        alone: list[tuple[Question, tuple[Any, str] | Failed]] = []
        for question in batch if len(batch) > 1 else []:
            try:
                alone.append((question, self._ask(worker, [question])[0]))
            except Failed as failed:
                alone.append((question, failed))
        yield from (one for one in alone if not isinstance(one[1], Failed))
        if not any(not isinstance(found, Failed) for _, found in alone):
            raise last
        yield from (one for one in alone if isinstance(one[1], Failed))

    def _ask(self, worker: Worker, batch: list[Question]) -> list[tuple[Any, str]]:
        order = {
            "do": "annotate",
            "annotator": self.annotator,
            "randomize": not self.both_orders,
            "pairs": [self._pair(question) for question in batch],
        }
        answer = worker.ask(order)
        return list(zip(answer["preferences"], answer["completions"], strict=True))

    def _pair(self, question: Question) -> dict[str, str]:
        """The first text as output_1; with its own order alpaca_eval wants the reference there, our second text."""
        texts = [as_text(question.first), as_text(question.second or "")]
        first, second = texts if self.both_orders else texts[::-1]
        return {"instruction": _instruction(question.messages), "output_1": first, "output_2": second}

    def _ruling(self, question: Question, found: tuple[Any, str] | Failed, seconds: float) -> Ruling:
        common: dict[str, Any] = {"key": question.key, "model": self.name, "seconds": seconds, "created": time.time()}
        if isinstance(found, Failed):
            return Ruling(**common, reason="rejected", detail=str(found))
        preference, reply = found
        if preference is None:
            return Ruling(**common, reason="unreadable", detail="alpaca_eval read no preference", reply=reply)
        p = 2 - preference if self.both_orders else preference - 1
        return Ruling(**common, p=p, form="alpaca_eval", reply=reply)


def _installed(name: str) -> Path | None:
    """Folder of an annotator of the installed package, which must know it; None without the package, whose worker says
    what is missing.
    """
    spec = importlib.util.find_spec("alpaca_eval")
    configs = Path(spec.origin).parent / "evaluators_configs" if spec and spec.origin else None
    if configs is None or not configs.is_dir():
        return None
    if not (configs / name / "configs.yaml").is_file():
        known = [path.parent.name for path in configs.glob("*/configs.yaml")]
        raise ConfigError(
            f"alpaca_eval has no annotator {name!r}{nearest(name, known)}; expected the name of one of its "
            "evaluators_configs, or a folder with a configs.yaml"
        )
    return configs / name


def _asked_by(folder: Path) -> list[str]:
    """What an annotator asks by: its folder's texts, and each prompt template, named from the folder above."""
    import yaml

    files = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".txt"))
    try:
        texts = {path.name: path.read_text(encoding="utf-8") for path in files}
        content = yaml.safe_load(texts["configs.yaml"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the alpaca_eval annotator {folder}: {first_line(error)}") from error
    annotators = content.values() if isinstance(content, dict) else ()
    templates = [
        str(one["prompt_template"]) for one in annotators if isinstance(one, dict) and "prompt_template" in one
    ]
    return [*map("\n".join, texts.items()), *(_text_of(template, folder.parent) for template in templates)]


def _text_of(template: str, home: Path) -> str:
    """A prompt template's text; alpaca_eval takes what names no file as the text itself."""
    try:
        return (home / template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return template


def _version() -> str | None:
    try:
        return metadata.version("alpaca_eval")
    except metadata.PackageNotFoundError:
        return None


def _rounds(pairs: Sequence[dict[str, str]]) -> list[list[int]]:
    """Rows in groups without doubles: alpaca_eval annotates equal pairs of one call once, and repeats want it again."""
    rounds: list[list[int]] = []
    times: Counter[tuple[str, ...]] = Counter()
    for row, pair in enumerate(pairs):
        same = tuple(pair.values())
        if times[same] == len(rounds):
            rounds.append([])
        rounds[times[same]].append(row)
        times[same] += 1
    return rounds


def _instruction(messages: Messages) -> str:
    """alpaca_eval knows one instruction; a longer conversation is written out."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in messages)
