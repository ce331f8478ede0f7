"""vLLM: a pair of a real shape on disk, engines side by side, their speed over a plain engine's, their forced choices.

"plain" holds the merged policy alone, "shared" one base for both sides, "merged" two checkpoints.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from experiments.gpu.disk_pair import SHAPES
from experiments.gpu.records import Records

ENGINES = ("plain", "shared", "merged")
PROMPT = 128
_SIDES = {"plain": 1, "shared": 2, "merged": 2}
_STRATEGIES = {"plain": (None,), "shared": ("aad", "greedy"), "merged": ("aad", "greedy")}
# Beside weights and caches: activations, recorded graphs and what CUDA itself takes, GiB per engine.
_BESIDE = 3.5


def run(records: Records, device: str, shape: str, counts: list[int], new: int, dtype: str, folder: Path) -> None:
    """All engines at once where the card holds them, else the two checkpoints after the others."""
    if importlib.util.find_spec("vllm") is None:
        return records.attempt(
            "engines", lambda: {"left_out": "vllm is not installed (pip install 'aad-plugin[vllm]')"}
        )
    if all(_is_known(records, shape, name, counts) for name in ENGINES):
        return None
    records.attempt(f"{shape} pair on disk", lambda: _make(folder, shape, dtype, records.left))
    if not (folder / "policy" / "config.json").is_file():
        return None
    # Tokens of a cache of each engine, GiB
    kv = {name: _cache_gib(shape, max(counts), new, _SIDES[name], dtype) for name in ENGINES}
    for wave in _waves(folder, device, kv):
        names = [name for name in wave if not _is_known(records, shape, name, counts)]
        if not names:
            continue
        if records.left < 30:
            records.attempt(f"{shape} engines {','.join(names)}", dict)  # says that no time is left
            return None
        environment = {f"KV_{name.upper()}": str(kv[name]) for name in names}
        for line in _measure(folder, counts, new, names, records.left, dtype, device, environment):
            _note(records, shape, line)
    return None


def _make(folder: Path, shape: str, dtype: str, seconds: float) -> dict[str, Any]:
    """Write the pair in a process of its own, whose memory on the card is free after it."""
    command = [sys.executable, "-m", "experiments.gpu.disk_pair", str(folder), shape, dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, seconds))
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout)[-300:])
    return {}


def _cache_gib(shape: str, requests: int, new: int, sides: int, dtype: str) -> float:
    hidden, _, layers, heads, kv_heads, _ = SHAPES[shape]
    size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    per_token = 2 * layers * kv_heads * (hidden // heads) * size * sides
    tokens = requests * (PROMPT + new + 32) + 4096  # pages that are not full, and one long prompt
    return round(max(0.25, per_token * tokens / 2**30), 2)


def _waves(folder: Path, device: str, kv: dict[str, float]) -> list[tuple[str, ...]]:
    if device != "cuda":
        return [ENGINES]
    weights = sum(file.stat().st_size for file in (folder / "policy").glob("*.safetensors")) / 2**30
    needed = sum(weights * (2 if name == "merged" else 1) + kv[name] + _BESIDE for name in ENGINES)
    fits = needed < torch.cuda.mem_get_info()[0] / 2**30
    return [ENGINES] if fits else [ENGINES[:2], ENGINES[2:]]


def _measure(
    folder: Path, counts: list[int], new: int, names: list[str], seconds: float, dtype: str, device: str,
    environment: dict[str, str],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield the engines' lines as they are printed."""
    command = [
        sys.executable, "-m", "experiments.gpu.engines", str(folder), ",".join(map(str, counts)), str(new),
        ",".join(names), str(seconds),
    ]  # fmt: skip
    own = {"DTYPE": dtype, "STRATEGIES": "aad,greedy,reference", **({} if device == "cuda" else {"EAGER": "1"})}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **own, **environment}) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("{"):
                yield json.loads(line)


def _note(records: Records, shape: str, line: dict[str, Any]) -> None:
    if line["what"] == "speed":
        name, requests = line["engine"], line["requests"]
        speed = statistics.median(line["tokens_per_second"])
        plain = records.lines.get(_key(shape, "plain", None, requests), {}).get("tokens_per_second")
        ratio = 1.0 if name == "plain" else round(speed / plain, 3) if plain else None
        found = {"tokens_per_second": speed, "rounds": line["tokens_per_second"], "ratio": ratio}
        records.add(_key(shape, name, line["strategy"], requests), **found)
    elif line["what"] == "forced":
        what = f"{shape} vllm {line['engine']} forced {line['strategy']}"
        records.add(what, **{k: line[k] for k in ("equal", "choices", "margins_of_the_others")})
    elif line["what"] == "failed":
        records.add(f"{shape} vllm {line['engine']}", error=" | ".join(line["errors"]) or line["end"][-300:])
    else:
        print(json.dumps({"part": records.part, "at": time.strftime("%H:%M:%S"), **line}), flush=True)


def _is_known(records: Records, shape: str, name: str, counts: list[int]) -> bool:
    strategies: tuple[str | None, ...] = _STRATEGIES[name]
    wanted = [_key(shape, name, one, count) for one in strategies for count in counts]
    return all(what in records.known for what in wanted)


def _key(shape: str, name: str, strategy: str | None, requests: int) -> str:
    return f"{shape} vllm {name} {strategy or 'greedy'} {requests}"
