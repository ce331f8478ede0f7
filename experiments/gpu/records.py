"""Figures as they come: one JSON line each, on the terminal and in a file per part, so that a cut run goes on."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Records:
    """The lines of one part.

    Args:
        folder: where ``<part>.jsonl`` stands. part: name of the part. deadline: of :func:`time.monotonic`, after which
            nothing new begins.
    """

    def __init__(self, folder: Path, part: str, deadline: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.part, self.deadline = folder / f"{part}.jsonl", part, deadline
        lines = self.file.read_text("utf-8").splitlines() if self.file.is_file() else []
        found = [json.loads(line) for line in lines if '"error"' not in line]
        self.lines: dict[str, dict[str, Any]] = {line["what"]: line for line in found}

    @property
    def known(self) -> set[str]:
        """What was measured, errors left out."""
        return set(self.lines)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def add(self, what: str, **found: Any) -> None:
        """Write one line."""
        line = json.dumps({"part": self.part, "what": what, **found}, default=str)
        if "error" not in found:
            self.lines[what] = json.loads(line)
        print(line, flush=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def attempt(self, what: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Write what ``measure`` finds, unless it is known or the time is over; an error is a line, too."""
        if what in self.known:
            return
        if self.left <= 0:
            print(json.dumps({"part": self.part, "what": what, "left_out": "no time"}), flush=True)
            return
        started = time.monotonic()
        try:
            found = measure()
        except Exception as error:  # one measurement that fails must not cost the others
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            self.add(what, error=f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:400]}")
            return
        self.add(what, **found, seconds=round(time.monotonic() - started, 1))
