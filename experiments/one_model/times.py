"""Seconds per token, measured when all rows are made: in one process, in turns, so that what else the machine does falls on
all alike."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from filelock import FileLock

from aad_plugin.files.whole import write_text
from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.model import load_pair
from aad_plugin.pair.strategies import decode
from experiments.one_model.rows import TRAINED, Asked

_ROWS, _ROUNDS = 4, 3


def add_times(asked: Asked, done: Mapping[str, dict[str, Any]]) -> None:
    """Give every row its seconds per token: greedy's, ExPO's and AAD's of the pair, of all trained rows the one that a
    single trained model of the policy's size takes; measured once and kept."""
    file = asked.output / "times.json"
    with FileLock(file.with_suffix(".lock")):  # one process measures, alone
        if not file.is_file():
            write_text(file, json.dumps(_measured(asked, done), indent=1) + "\n")
    found = json.loads(file.read_text(encoding="utf-8"))
    for name, row in done.items():
        row["seconds_per_token"] = found[name if name in found else "trained"]


def _measured(asked: Asked, done: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """Best of a few rounds, one batch of a few prompts, no answer ending early."""
    pair = load_pair(**{**asked.model_args, "shortcuts": "packed"})
    example = next(name for name in done if name.startswith(TRAINED) and not name.startswith("iterate"))
    folder = asked.output / example / ("student" if example.startswith("distill") else "policy")
    one = load_pair(policy=str(folder), reference=str(folder), shortcuts="packed", **asked.placement)
    scale = done["expo"].get("expo_scale", 1.0)
    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        "greedy": (pair, {"strategy": "greedy"}), "expo": (pair, {"strategy": "expo", "expo_scale": scale}),
        "aad": (pair, {"strategy": "aad"}), "trained": (one, {"strategy": "greedy"}),
    }  # fmt: skip
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(_ROUNDS):
        for name, (model, given) in ways.items():
            ids, mask = encode_prompts(model, list(asked.oracle_prompts.prompts[:_ROWS]))
            start = time.perf_counter()
            decode(model, ids, mask, model.settings.override(**given), max_new_tokens=asked.max_new_tokens,
                   eos_token_id=None)  # fmt: skip
            best[name] = min(best[name], (time.perf_counter() - start) / (len(ids) * asked.max_new_tokens))
    return best
