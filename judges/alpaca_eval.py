"""``alpaca_eval:`` judges: annotators of the alpaca_eval package, and its own length-controlled win rate.

alpaca_eval asks, retries and parses by itself; here its annotations become rulings, both orders of them, so that store
and statistics are those of every other judge. Its package runs in a process of its own (`alpaca_worker.py`).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from aad_plugin.errors import BackendMissing, ConfigError, JudgeUnavailable
from aad_plugin.judges.items import Messages, Question, Ruling, as_text, digest
from aad_plugin.judges.length_control import LengthControlled
from aad_plugin.judges.sitting import Sitting
from aad_plugin.judges.statistics import CONFIDENCE

__all__ = ["AlpacaEvalJudge", "fit_length_control", "official_length_control"]

_AT_ONCE = 64
_NUM_INSTRUCTIONS = 805
_INSTALL = "this needs the alpaca_eval package: pip install 'alpaca_eval==0.6.6' 'scikit-learn<1.10'"


class AlpacaEvalJudge:
    """Pairwise judge made of an alpaca_eval annotator.

    Args:
        name: a folder with a ``configs.yaml``, or the name of an annotator that comes with alpaca_eval. Keys and base
            URLs are alpaca_eval's own matter (OPENAI_API_KEY, OPENAI_CLIENT_CONFIG_PATH).
        concurrency: alpaca_eval's requests in flight; its default is 5.
    """

    kind = "pairwise"
    both_orders = True
    template_hash = ""
    price = None

    def __init__(self, name: str, *, concurrency: int = 5):
        folder = Path(name)
        marks: list[Any] = [name]
        if folder.is_dir():
            if not (folder / "configs.yaml").is_file():
                raise ConfigError(f"{folder} is no alpaca_eval annotator: it needs a configs.yaml")
            files = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".txt"))
            marks = [folder.name, *((path.name, path.read_text(encoding="utf-8")) for path in files)]
            name = str(folder.resolve())
        self.name = f"alpaca_eval:{folder.name}"
        self.annotator = name
        self.concurrency = concurrency
        self.fingerprint = digest({"kind": "alpaca_eval", "annotator": marks})

    def prepare(self, sitting: Sitting) -> None:
        """Nothing to find out: the annotator's configuration says how it asks."""

    def rule(self, questions: Iterable[Question], sitting: Sitting) -> None:
        """Have every question annotated, 64 at a time, and record p(first better) = 2 - preference."""
        questions = iter(questions)
        with _Worker({"OPENAI_MAX_CONCURRENCY": str(self.concurrency)}) as worker:
            while batch := list(islice(questions, _AT_ONCE)):
                started = time.time()
                pairs = [
                    {
                        "instruction": _instruction(q.messages),
                        "output_1": as_text(q.first),
                        "output_2": as_text(q.second or ""),
                    }
                    for q in batch
                ]
                preferences = [None] * len(batch)
                for rows in _rounds(pairs):
                    order = {"do": "annotate", "annotator": self.annotator, "pairs": [pairs[row] for row in rows]}
                    for row, preference in zip(rows, worker.ask(order)["preferences"], strict=True):
                        preferences[row] = preference
                seconds = (time.time() - started) / len(batch)
                for question, preference in zip(batch, preferences, strict=True):
                    common = {"key": question.key, "model": self.name, "seconds": seconds, "created": time.time()}
                    if preference is None:
                        why = "alpaca_eval read no preference"
                        sitting.record(Ruling(**common, reason="unreadable", detail=why))
                    else:
                        sitting.record(Ruling(**common, p=2 - preference, form="alpaca_eval"))


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


def official_length_control(
    p: Sequence[float], candidate_lengths: Sequence[int], baseline_lengths: Sequence[int], gamed: str | Path
) -> LengthControlled:
    """AlpacaEval 2's own length-controlled win rate, by the alpaca_eval package.

    Args:
        p: (805,) verdicts in the order of AlpacaEval's instructions; its difficulties go by position.
        candidate_lengths, baseline_lengths: (805,) characters.
        gamed: AlpacaEval's file df_gamed.csv (regulariser rows and difficulties).
    Raises:
        ConfigError: not 805 verdicts. BackendMissing: alpaca_eval is not installed. JudgeUnavailable: it failed.
    """
    return fit_length_control(p, candidate_lengths, baseline_lengths, gamed)[0]


def fit_length_control(
    p: Sequence[float | None], candidate_lengths: Sequence[int], baseline_lengths: Sequence[int], gamed: str | Path
) -> tuple[LengthControlled, dict[str, float]]:
    """The same with the regression's weights by AlpacaEval's own column names; p may be None where unjudged.

    A row without a verdict takes no part in the fit and is predicted like the others, as upstream does.
    """
    if len(p) != _NUM_INSTRUCTIONS:
        raise ConfigError(
            f"AlpacaEval's length control needs verdicts on all {_NUM_INSTRUCTIONS} instructions, got {len(p)}; "
            "leave --gamed out to use this package's own"
        )
    if not Path(gamed).is_file():
        raise ConfigError(f"there is no file {gamed}")
    order = {
        "do": "length_control",
        "gamed": str(Path(gamed).resolve()),
        "p": list(p),
        "candidate_lengths": list(candidate_lengths),
        "baseline_lengths": list(baseline_lengths),
    }
    from scipy import stats

    with _Worker({}) as worker:
        found = worker.ask(order)
    value, error = found["length_controlled_winrate"] / 100, found["lc_standard_error"] / 100
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    method = "AlpacaEval 2's regression by the alpaca_eval package, its difficulties and regulariser rows; its error"
    controlled = LengthControlled(value, error, value - half, value + half, method + " leaves out that of the fit")
    return controlled, found["weights"]


class _Worker:
    """The worker process; a context manager."""

    def __init__(self, environment: dict[str, str]):
        import os

        if importlib.util.find_spec("alpaca_eval") is None:
            raise BackendMissing(_INSTALL)
        # -P: the worker's own folder holds modules named like the standard library's and like alpaca_eval itself.
        command = [sys.executable, "-P", str(Path(__file__).with_name("alpaca_worker.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"IS_ALPACA_EVAL_2": "True"} | environment,
        )  # fmt: skip

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.terminate()
        self.process.wait()

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise JudgeUnavailable(f"alpaca_eval ended with exit code {self.process.wait()}; does it run by itself?")
        answer = json.loads(line)
        if "error" in answer:
            raise JudgeUnavailable(f"alpaca_eval failed: {answer['error'][:300]}")
        return answer


def _instruction(messages: Messages) -> str:
    """alpaca_eval knows one instruction; a longer conversation is written out."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in messages)
