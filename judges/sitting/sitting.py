"""One run of one judge: what a judge needs while it rules, whatever kind it is.

A judge is any object with the attributes of the protocol `Judge`; third parties provide factories of such objects
through the entry-point group ``aad_plugin.judges``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.judges.items import Ruling
from aad_plugin.judges.sitting.store import Store

TRANSPORTS = ("live", "batch", "file")


@dataclass
class Sitting:
    """Where rulings go and what the run allows.

    Args:
        store: holds every ruling; `record` appends to it.
        transport: "live", "batch" or "file"; in-process judges ignore it.
        max_cost: stop asking before this is exceeded; None is no limit. Needs a judge with a price.
        results: for the file transport, the file of replies; None is ``results.jsonl`` in the store's folder.
        poll_s: for the batch transport, seconds between two looks at the batches; at least 0.
        leave_batches: ask by another transport what a batch of an earlier run still holds, and pay for both.
        billed: keys that are on a bill of this run already, to be shared by judges that may be one (see `Plan.verdicts`).
        on_ruling: called after each recorded ruling (progress bar).
    Attributes:
        judge_fingerprint: of the judge that sits, once it is prepared. budget: of what it may spend, its channel's, one for
            all that is asked in the sitting.
    Raises:
        ConfigError: unknown transport, a cost limit that is no positive number, or a negative pause.
    """

    store: Store
    transport: str = "live"
    max_cost: float | None = None
    results: Path | None = None
    poll_s: float = 30.0
    leave_batches: bool = False
    billed: set[str] = field(default_factory=set)
    on_ruling: Callable[[Ruling], None] | None = None
    judge_fingerprint: str = field(default="", init=False)
    stopped: str = field(default="", init=False)
    budget: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.transport not in TRANSPORTS:
            raise ConfigError(
                f"transport must be one of {', '.join(TRANSPORTS)}, got {self.transport!r}"
                f"{nearest(str(self.transport), TRANSPORTS)}"
            )
        if self.max_cost is not None and not self.max_cost > 0:  # NaN is not
            raise ConfigError(f"a cost limit is money above 0, in the currency of the price, got {self.max_cost!r}")
        if not 0 <= self.poll_s < math.inf:
            raise ConfigError(f"poll_s is a number of seconds of at least 0, got {self.poll_s!r}")

    def record(self, ruling: Ruling) -> None:
        """Keep a ruling before anything else happens to it. Blocks on local disk."""
        self.store.add(ruling)
        if self.on_ruling:
            self.on_ruling(ruling)

    def stop(self, why: str) -> None:
        """Say that questions were left unasked on purpose; the run is then partial."""
        self.stopped = self.stopped or why
