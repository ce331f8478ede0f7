"""How long and how often a server that fails is asked again: back-off between a floor and a ceiling, measured in time.

Whatever a server asks for, it hears from us no sooner than the floor and no later than the ceiling. While nothing is
answered, one request at a time finds out whether the server is back.
"""

from __future__ import annotations

import random
import sys
import time

PATIENCE_S = 3600.0
LONGEST_ASKED_S = 120.0
_FIRST_PAUSE_S = 0.5
_OUTAGE_AFTER = 8  # failures in a row, whatever kind
_TELL_AFTER_S = 4.0


def pause_s(attempt: int, asked_s: float | None, longest_s: float) -> float:
    """Seconds before the next attempt, `attempt` counted from 1: doubling with jitter, or more where the server asks."""
    own = min(longest_s, _FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 30)) * random.uniform(0.5, 1.0)
    return max(own, min(asked_s or 0.0, LONGEST_ASKED_S))


class Gate:
    """Which of many workers may ask, and when; all of them in one event loop or thread."""

    def __init__(self, most: int, patience_s: float):
        self.most = self.allowed = most
        self.patience_s = patience_s
        self.in_flight = 0
        self.successes = 0
        self.contacted = False
        self.not_before = 0.0
        self.good_at = time.monotonic()
        self.failed_in_a_row = 0
        self._closed_at = 0.0
        self._level = 0
        self.notice = Notice()

    def wait_s(self) -> float:
        """Seconds until the next request may go out; 0 where one may now."""
        wait = self.not_before - time.monotonic()
        return wait if wait > 0 else (0.0 if self.in_flight < self.allowed else 0.02)

    @property
    def over(self) -> bool:
        """Whether nothing was answered for longer than the patience."""
        return time.monotonic() - self.good_at > self.patience_s

    def succeeded(self) -> None:
        """A request was answered."""
        self.successes += 1
        self.contacted = True
        self.failed_in_a_row = self._level = 0
        self.good_at = time.monotonic()
        self.allowed = min(self.most, self.allowed + 1)
        self.notice.end()

    def failed(self, started: float, limited: bool, asked_s: float | None, detail: str, longest_s: float) -> None:
        """A request that went out at `started` (monotonic) failed in a way that may pass."""
        self.failed_in_a_row += 1
        now = time.monotonic()
        if limited or self.failed_in_a_row >= _OUTAGE_AFTER:
            if started >= self._closed_at:  # those that were on their way before count once
                self.allowed = max(1, self.allowed // 2) if self._level == 0 and limited else 1
                self._level += 1
                self._closed_at = now
                self.not_before = max(self.not_before, now + pause_s(self._level, asked_s, longest_s))
            elif asked_s:
                self.not_before = max(self.not_before, now + min(asked_s, LONGEST_ASKED_S))
            self.not_before = min(self.not_before, self.good_at + self.patience_s + 0.1)
        silent = now - self.good_at
        if (
            max(silent, self.not_before - now) > _TELL_AFTER_S and self.failed_in_a_row > 1
        ) or self.not_before - now > 30:
            self.notice.tell(detail, self.not_before - now, self.patience_s - silent)


class Notice:
    """One line on stderr about a server that does not answer: updated on a terminal, else written once and at its end."""

    def __init__(self) -> None:
        self.since: float | None = None

    def tell(self, detail: str, wait_s: float, left_s: float) -> None:
        """Say that we wait, and for how long at most."""
        line = f"the judge's server does not answer ({detail[:120]}); asking again for {max(0.0, left_s):.0f} s at most"
        if sys.stderr.isatty():
            print(f"\r\x1b[2K{line}, next in {max(0.0, wait_s):.0f} s", end="", file=sys.stderr, flush=True)
        elif self.since is None:
            print(line, file=sys.stderr, flush=True)
        if self.since is None:
            self.since = time.monotonic()

    def end(self) -> None:
        """Say that the server answers again, if anything was said before."""
        if self.since is None:
            return
        line = f"the judge's server answers again after {time.monotonic() - self.since:.0f} s"
        print(("\r\x1b[2K" if sys.stderr.isatty() else "") + line, file=sys.stderr, flush=True)
        self.since = None
