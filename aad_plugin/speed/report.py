"""What a bench says: one row per contestant and batch size, as data and as a table."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from aad_plugin.speed.measure import Timing


def rows(timings: Sequence[Timing], baselines: Sequence[str], naive: str | None) -> list[dict[str, Any]]:
    """Return one row per timing.

    Args:
        baselines: names of the contestants whose faster one is the yardstick, per batch size.
        naive: name of the naive loop, or None where it did not run.
    Returns:
        tokens per second (median, lowest, highest round), ``ratio`` to the yardstick and ``ratio_naive``, both medians
        over rounds of that round's own ratio; ``agreement``: share of an answer's tokens before the first one that
        differs from the naive loop's, for AAD; ``peak_mib``: memory taken by the call itself; ``operations`` and
        ``waits`` of a step (:mod:`aad_plugin.speed.operations`), None where they were not counted; ``tokens_per_check``
        of a draft model's guesses, else None.
    """
    found = []
    for timing in timings:
        same = [other for other in timings if other.contestant.batch == timing.contestant.batch]
        yardstick = max((t for t in same if t.contestant.name in baselines), key=lambda t: t.speed)
        loop = next((t for t in same if t.contestant.name == naive), None)
        found.append(
            {
                "name": timing.contestant.name,
                "batch": timing.contestant.batch,
                "tokens_per_second": timing.speed,
                "lowest": min(timing.speeds),
                "highest": max(timing.speeds),
                "ratio": _ratio(timing, yardstick),
                "ratio_naive": _ratio(timing, loop) if loop else None,
                "agreement": _agreement(timing, loop) if loop and timing.contestant.name.startswith("aad") else None,
                "peak_mib": timing.peak_mib,
                "seconds": timing.seconds,
                "operations": timing.counts.operations if timing.counts else None,
                "waits": timing.counts.waits if timing.counts else None,
                "tokens_per_check": timing.contestant.per_check() if timing.contestant.per_check else None,
            }
        )
    return found


def table(found: Sequence[dict[str, Any]], title: str) -> Table:
    """Draw the rows for a terminal."""
    drawn = Table(title=title, title_justify="left")
    for name in (
        "batch",
        "decoding",
        "tokens/s",
        "lowest – highest",
        "÷ greedy",
        "÷ naive",
        "as naive",
        "peak MiB",
        "operations",
        "waits",
    ):
        drawn.add_column(name, justify="left" if name == "decoding" else "right")
    drafts = any(row.get("tokens_per_check") for row in found)
    if drafts:
        drawn.add_column("tokens/check", justify="right")
    for row in found:
        checked = row.get("tokens_per_check")
        drawn.add_row(
            str(row["batch"]), row["name"], f"{row['tokens_per_second']:.1f}",
            f"{row['lowest']:.1f} – {row['highest']:.1f}", f"{row['ratio']:.2f}",
            "" if row["ratio_naive"] is None else f"{row['ratio_naive']:.2f}",
            "" if row["agreement"] is None else f"{row['agreement']:.0%}", f"{row['peak_mib']:.0f}",
            *("" if row[name] is None else f"{row[name]:.0f}" for name in ("operations", "waits")),
            *([f"{checked:.2f}" if checked else ""] if drafts else []),
        )  # fmt: skip
    return drawn


def machine() -> dict[str, Any]:
    """Return what the figures were made on, and when."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _processor() -> str:
    """The processor's own name where Linux gives it, and whether it multiplies bfloat16 in whole tiles."""
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        facts = ""
    named = next((line for line in facts.splitlines() if line.startswith("model name")), "")
    name = named.partition(":")[2].strip() or platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}{', AMX' if 'amx_bf16' in facts else ''}"


def _ratio(timing: Timing, other: Timing) -> float:
    pairs = zip(timing.speeds, other.speeds, strict=True)
    return statistics.median(speed / yardstick for speed, yardstick in pairs)


def _agreement(timing: Timing, naive: Timing) -> float:
    """Share of tokens before the first that differs, over all rows."""
    equal = (timing.output.cpu() == naive.output.cpu()).long().cumprod(-1)
    return float(equal.float().mean())
