"""A pair proves itself: every path that spares work is held against plain readings before the pair answers.

A plain reading is one model read alone by transformers' own forward: one row, no padding, no cache. What a pair does
instead (rows of both sides in one forward, caches, the reference's head at candidates only) must give the same logits on
a short text, else the next plainer path is taken, with a line that says so, or nothing is answered. A passed proof is
remembered, so that the same pair loads again at no cost.

    pair.prove()        # loading a pair does it; AAD_PLUGIN_PROOF=0 leaves it out
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from aad_plugin.errors import ProofFailed
from aad_plugin.files.cache import proof_file, remember
from aad_plugin.files.marks import weights_mark
from aad_plugin.files.versions import versions
from aad_plugin.pair.picture_checks import make_picture_text
from aad_plugin.pair.plain_readings import Text, make_text
from aad_plugin.pair.proof_checks import CHECKS, USES, Check
from aad_plugin.pair.sides import ReadPair
from aad_plugin.pair.sides_by_row import SidesByRow
from aad_plugin.pair.step import Step
from aad_plugin.sources.processors import processor_mark

logger = logging.getLogger(__name__)

_FAILURES = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError)
_TRIES = 3  # an expert router's near tie falls either way on one text, not on three


@dataclass(frozen=True)
class Proof:
    """What was proven of a pair.

    Attributes:
        path: how it decodes: "shared rows", "shared rows, nothing merged", "two models", "one side after the other"; "…, no
            cache" where none agreed with a cache, "…, row by row" where none agreed in a padded batch.
        status: "proven", "remembered" or "left out".
        seconds: that the proof took. avoided: paths that gave other logits, each with what differed.
    """

    path: str
    status: str
    seconds: float = 0.0
    avoided: tuple[str, ...] = ()

    def account(self) -> dict[str, Any]:
        """Return what belongs into results."""
        return {"path": self.path, "status": self.status, "avoided": list(self.avoided)}


# -------------------------------------------------------------------------------------------------- paths


def _paths(pair: ReadPair) -> Iterator[str]:
    """Put the pair on its paths one by one, the one that spares most first; yield what each is called."""
    pair.sides = sides = pair.sides.in_batches()  # what was proven before may have been read row by row
    yield sides.called
    if sides.can_merge and pair.shortcuts != "none":
        sides.merging_is_proven = False
        yield f"{sides.called}, nothing merged"
    if (apart := sides.apart()) is not sides:
        pair.sides = sides = apart
        yield sides.called
    if sides.can_wait and pair.shortcuts != "none":
        pair.shortcuts = "none"
        yield f"{sides.called}, whole rows"
    pair.is_cached, pair.shortcuts = False, "none"
    yield f"{sides.called}, no cache"
    pair.sides = SidesByRow(sides)
    yield f"{sides.called}, row by row"


@torch.no_grad()
def prove(pair: ReadPair) -> Proof:
    """Put a pair on the first path whose logits are those of its models alone.

    Raises:
        ProofFailed: no path agrees. NonFiniteLogits: a model alone gives NaN or inf.
    """
    if os.environ.get("AAD_PLUGIN_PROOF") == "0":
        path = next(_paths(pair))
        _read_one_token(pair)
        return Proof(path, "left out")
    known = _all_ranks(_recall(pair))
    start = time.monotonic()
    avoided: list[str] = []
    texts: list[Text] = []
    for path in _paths(pair):
        if known and all(one == path for one in known):
            _read_one_token(pair)
            return Proof(path, "remembered")
        said = _all_ranks(_first_difference(pair, texts))
        failed = next((one for one in said if one), None)
        if failed is None:
            if pair.proof_file is not None:
                remember(pair.proof_file, {"path": path, "versions": versions()})
            if avoided:
                logger.warning(
                    "this pair is read by the plainer path %r, since others would change its tokens (%s)",
                    path,
                    "; ".join(avoided),
                )
            return Proof(path, "proven", time.monotonic() - start, tuple(avoided))
        avoided.append(f"{path}: {failed}")
    raise ProofFailed(
        f"no way to decode this pair gives what its models give alone ({avoided[-1]}; {_versions()}). Merge adapters into "
        "a checkpoint and pass policy=…,reference=…, try dtype=float32 or another transformers; AAD_PLUGIN_PROOF=0 "
        "decodes all the same"
    )


def _read_one_token(pair: ReadPair) -> None:
    """Let the heads see a forward, by which they know what they can give: a pair's account says so, and must be the same
    whether the proof was made here or is remembered. The pair's count of passes stays as it was."""
    passes = pair.sides.passes.copy()
    pair.sides.logits(
        ("policy", "reference"), Step(torch.zeros(1, 1, dtype=torch.long, device=pair.sides.policy.device))
    )
    pair.sides.passes = passes


@torch.no_grad()
def prove_use(pair: ReadPair, use: str) -> None:
    """Prove what a call asks for besides (:data:`USES`), once per pair and process.

    Raises:
        ProofFailed: it gives other logits.
    """
    if use in pair.proven_uses or os.environ.get("AAD_PLUGIN_PROOF") == "0":
        return
    said = _all_ranks(_first_difference(pair, [], {use: USES[use]}))
    if failed := next((one for one in said if one), None):
        raise ProofFailed(f"{use} would change this pair's tokens: {failed} ({_versions()}); leave it out")
    pair.proven_uses.add(use)


@torch.no_grad()
def _first_difference(pair: ReadPair, texts: list[Text], checks: dict[str, Check] = CHECKS) -> str | None:
    """Return what differs on every one of a few texts, or None; an error of a path counts as a difference.

    The pair's count of passes stays as it was.
    """
    passes = pair.sides.passes.copy()
    try:
        return _difference(pair, texts, checks)
    finally:
        pair.sides.passes = passes


def _difference(pair: ReadPair, texts: list[Text], checks: dict[str, Check]) -> str | None:
    said = _text_difference(pair, texts, checks)
    if said is not None or pair.processor is None:
        return said
    if pair.picture_text is None:
        pair.picture_text = make_picture_text(pair)
    text = pair.picture_text
    try:
        return next((f"with pictures, {said}" for check in checks.values() if (said := check(pair, text))), None)
    except _FAILURES as error:
        return f"with pictures, {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _text_difference(pair: ReadPair, texts: list[Text], checks: dict[str, Check]) -> str | None:
    said = None
    for seed in range(_TRIES):
        if len(texts) <= seed:
            texts.append(make_text(pair, seed))
        try:
            said = next((said for check in checks.values() if (said := check(pair, texts[seed]))), None)
        except _FAILURES as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if said is None:
            return None
    return said


def _all_ranks(value: Any) -> list[Any]:
    """Return what every process of a run found, so that all take one path."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    found = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found


# ---------------------------------------------------------------------------------------------- remembering


def _file(pair: ReadPair) -> Any:
    models = pair.sides.models().values()
    about = {
        "weights": weights_mark(pair),
        "versions": versions(),
        "models": [[type(m).__qualname__, str(m.dtype), str(m.device), m.config._attn_implementation] for m in models],
        "sides": pair.sides.called,
        "shortcuts": pair.shortcuts,
        "merges": pair.sides.can_merge,
        "vocab_size": pair.vocab_size,
        "alpha": pair.settings.alpha,
        "checks": list(CHECKS),
        **({} if pair.processor is None else {"processor": processor_mark(pair.processor)}),
    }
    return proof_file(about)


def _recall(pair: ReadPair) -> str | None:
    file = pair.proof_file = _file(pair)  # named before a fallback changes the pair
    try:
        return json.loads(file.read_text("utf-8"))["path"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _versions() -> str:
    return ", ".join(
        f"{name} {version}" for name, version in versions().items() if name in ("torch", "transformers", "peft")
    )
