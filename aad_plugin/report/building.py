"""Build the report page of one or several runs.

build_report(read_runs(["runs/today"]), Path("report.html"))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aad_plugin.errors import ConfigError
from aad_plugin.pages.page import write_page
from aad_plugin.report.content import page_content
from aad_plugin.report.runs import Run, read_run

MAX_TRACES = 400
"""Answers whose tokens are embedded; some 10 kB each at 250 tokens."""
_TITLE_TASKS = 3
_STYLES = ["vendor/tabulator.min.css", "base.css", "report.css"]
_SCRIPTS = [
    "vendor/d3.min.js",
    "vendor/plot.min.js",
    "vendor/tabulator.min.js",
    "tokens.js",
    "figures.js",
    "detail.js",
    "report.js",
]


def read_runs(specs: Sequence[str]) -> list[Run]:
    """Read runs, see :func:`read_run`; names that come twice are numbered.

    Raises:
        ConfigError: no run, or a folder without one.
    """
    if not specs:
        raise ConfigError("no run: give the folder of lm-eval's results or of a judged run")
    runs = [read_run(spec) for spec in specs]
    counts = Counter(run.name for run in runs)
    for number, run in enumerate(runs, 1):
        if counts[run.name] > 1:
            run.name = f"{run.name} ({number})"
    return runs


def build_report(
    runs: Sequence[Run], output: Path, *, title: str = "", max_traces: int = MAX_TRACES, progress: bool = False
) -> None:
    """Write the page.

    Args:
        title: default: pairs and tasks. max_traces: answers whose tokens are embedded.
        progress: draw a bar on stderr.
    Raises:
        ConfigError: the output cannot be written.
    """
    content = page_content(runs, title=title or _title(runs), max_traces=max_traces, progress=progress)
    write_page(output, "report.html", content, styles=_STYLES, scripts=_SCRIPTS)


def _title(runs: Sequence[Run]) -> str:
    """Which pairs on which tasks; a run's own name where it is not its pair's."""
    names = []
    for run in runs:
        pair = str((run.config.get("aad") or {}).get("pair") or run.model or "")
        names.append(f"{run.name} ({pair})" if pair and pair != run.name else run.name)
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    shown = ", ".join(tasks[:_TITLE_TASKS]) + (f" and {len(tasks) - _TITLE_TASKS} more" if tasks[_TITLE_TASKS:] else "")
    return " · ".join(names) + (f" on {shown}" if shown else "")
