"""AlpacaEval's own length-controlled win rate, and the process in which its package runs (`alpaca_worker.py`)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.errors import BackendMissing, ConfigError, JudgeUnavailable
from aad_plugin.judges.statistics.intervals import CONFIDENCE
from aad_plugin.judges.statistics.length_control import LengthControlled
from aad_plugin.texts.cleaning import printable

_NUM_INSTRUCTIONS = 805

_INSTALL = "pip install 'aad_plugin[alpaca]'"


def check_official(num: int, gamed: str | Path) -> None:
    """Raise before anything is asked what :func:`official_length_control` would raise after all is paid for.

    Args:
        num: of verdicts that there will be. gamed: AlpacaEval's df_gamed.csv.
    """
    if num != _NUM_INSTRUCTIONS:
        raise ConfigError(
            f"AlpacaEval's length control needs verdicts on all {_NUM_INSTRUCTIONS} instructions, got {num}; "
            "leave --df-gamed out to use this package's own"
        )
    if not Path(gamed).is_file():
        raise ConfigError(f"there is no file {gamed}")
    if importlib.util.find_spec("alpaca_eval") is None:
        raise BackendMissing(f"this needs the alpaca_eval package, which is not installed: {_INSTALL}")


def official_length_control(
    p: Sequence[float | None], candidate_lengths: Sequence[int], baseline_lengths: Sequence[int], gamed: str | Path
) -> LengthControlled:
    """AlpacaEval 2's own length-controlled win rate, by the alpaca_eval package.

    Args:
        p: (805,) verdicts in the order of AlpacaEval's instructions, None where unjudged; its difficulties go by position.
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
    check_official(len(p), gamed)
    order = {
        "do": "length_control",
        "gamed": str(Path(gamed).resolve()),
        "p": list(p),
        "candidate_lengths": list(candidate_lengths),
        "baseline_lengths": list(baseline_lengths),
    }
    from scipy import stats

    with Worker({}) as worker:
        found = worker.ask(order)
    value, error = found["length_controlled_winrate"] / 100, found["lc_standard_error"] / 100
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    method = "AlpacaEval 2's regression by the alpaca_eval package, its difficulties and regulariser rows; its error"
    controlled = LengthControlled(value, error, value - half, value + half, method + " leaves out that of the fit")
    return controlled, found["weights"]


class Failed(JudgeUnavailable):
    """alpaca_eval raised an exception on one order; its process lives on."""


class Worker:
    """The worker process; a context manager.

    Args:
        environment: added to the process's. clean: makes what alpaca_eval says of an error fit to print.
    """

    def __init__(self, environment: dict[str, str], clean: Callable[[str], str] = printable):
        self.clean = clean
        if importlib.util.find_spec("alpaca_eval") is None:
            raise BackendMissing(f"this needs the alpaca_eval package, which is not installed: {_INSTALL}")
        # -P: the worker's own folder holds modules named like the standard library's and like alpaca_eval itself.
        command = [sys.executable, "-P", str(Path(__file__).with_name("alpaca_worker.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"IS_ALPACA_EVAL_2": "True", "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        )  # fmt: skip

    def __enter__(self) -> Worker:
        assert self.process.stdout
        greeting = json.loads(self.process.stdout.readline() or '{"unimportable": "its process ended"}')
        if "unimportable" in greeting:
            self.__exit__()
            raise BackendMissing(
                f"the alpaca_eval package is installed, but importing it fails ({greeting['unimportable'][:300]}); "
                f"{_INSTALL} installs versions that work together"
            )
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
            raise Failed(f"alpaca_eval failed: {self.clean(answer['error'])[:300]}")
        return answer
