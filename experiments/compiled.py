"""How far torch.compile carries on a CPU: greedy decoding of one model and the naive two-model loop, compiled and not.

Both read static caches; the prompt is read by the plain model, each step by the compiled one. The demo pair in bfloat16,
batch 1, median of three rounds; compiling is not counted and printed beside.

    python -m experiments.compiled [tokens]
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StaticCache

from aad_plugin.cli.bench import read_prompts
from aad_plugin.decoding import aad_scores
from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.cache_names import named_cache
from aad_plugin.pair.model import load_pair
from aad_plugin.sources.merging import full_checkpoints
from aad_plugin.sources.parts import resolve


class Reader:
    """One model and its static cache; ``step`` reads one token."""

    def __init__(self, model: Any, compiled: bool) -> None:
        self.model = model
        self.step_model = torch.compile(model, dynamic=False) if compiled else model

    def start(self, ids: torch.Tensor, length: int) -> torch.Tensor:
        self.cache = StaticCache(config=self.model.config, max_cache_len=length)
        self.place = ids.shape[1]
        return self._read(self.model, ids, torch.arange(self.place))

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        self.place += 1
        return self._read(self.step_model, ids, torch.tensor([self.place - 1]))

    def _read(self, model: Any, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        held = named_cache(self.model, self.cache)
        out = model(input_ids=ids, position_ids=places[None], use_cache=True, logits_to_keep=1, **held)
        return out.logits[:, -1]


@torch.no_grad()
def decode(readers: list[Reader], ids: torch.Tensor, tokens: int) -> list[int]:
    """Greedy tokens of one model, or AAD's of two."""
    rows = [reader.start(ids, ids.shape[1] + tokens) for reader in readers]
    found: list[int] = []
    while True:
        scores = rows[0] if len(rows) == 1 else aad_scores(rows[0], rows[1], 0.1)
        chosen = scores.argmax(-1, keepdim=True)
        found.append(int(chosen))
        if len(found) == tokens:
            return found
        rows = [reader.step(chosen) for reader in readers]


def main(tokens: int = 64) -> None:
    """Measure and print."""
    models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
              for path in full_checkpoints(resolve("demo"), "bfloat16")]  # fmt: skip
    ids, _ = encode_prompts(load_pair("demo", dtype="bfloat16"), read_prompts(None, 1)[:1])
    plain, compiled = ([Reader(model, choice) for model in models] for choice in (False, True))
    ways = {"greedy": plain[:1], "greedy, compiled": compiled[:1], "naive": plain, "naive, compiled": compiled}
    for name, readers in ways.items():
        started = time.perf_counter()
        decode(readers, ids, tokens)
        print(f"{name}: first time {time.perf_counter() - started:.1f} s", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):
        for name, readers in ways.items():
            started = time.perf_counter()
            decode(readers, ids, tokens)
            seconds[name].append(time.perf_counter() - started)
    for name, values in seconds.items():
        print(f"{name}: {tokens / statistics.median(values):.1f} tok/s")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(*(int(word) for word in sys.argv[1:2]))
