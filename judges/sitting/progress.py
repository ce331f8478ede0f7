"""The progress bar of a run: how many rulings, how fast, how many without a verdict, what they cost so far."""

from __future__ import annotations

from collections import Counter

from tqdm import tqdm

from aad_plugin.judges.items import Ruling
from aad_plugin.judges.sitting.judge import Judge


class Progress:
    """A bar on stderr over `total` questions; a context manager. Failures and cost are counted even if not shown."""

    def __init__(self, total: int, judge: Judge, shown: bool = True):
        self.price = judge.price
        self.cost = 0.0
        self.failures: Counter[str] = Counter()
        self.bar = tqdm(total=total, desc=judge.name, unit="call", disable=not shown or not total, smoothing=0.1)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, ruling: Ruling) -> None:
        """Count one recorded ruling."""
        if self.price:
            self.cost += ruling.cost or 0.0
        if ruling.reason:
            self.failures[ruling.reason] += 1
        self.bar.update()
        shown = {"cost": f"{self.cost:.4f}"} if self.price else {}
        shown |= {"unjudged": str(self.failures.total())} if self.failures else {}
        if shown:
            self.bar.set_postfix(shown, refresh=False)
