"""Hold the demo pair against the naive loop over the whole grid: 8 prompts, alone and left-padded together, four alphas.

Run: python -m experiments.demo_equality [alpha …]      about four minutes per alpha on two cores
"""

from __future__ import annotations

import sys
import time

import torch

from aad_plugin.pair.model import load_pair
from tests.demo.test_pair import PROMPTS, encode, hold_against_naive

ALPHAS = (0.05, 0.1, 0.5, 1.0)
STEPS = 64


def main(alphas: tuple[float, ...]) -> None:
    """Print one line per alpha; a difference that its margin does not excuse raises."""
    torch.set_num_threads(2)
    pair = load_pair("demo", dtype="float32")
    prompts = encode(pair, PROMPTS)
    for alpha in alphas:
        started = time.perf_counter()
        result = hold_against_naive(pair, prompts, STEPS, alpha)
        seconds = time.perf_counter() - started
        print(f"alpha={alpha}: {result.steps} steps equal, {result.excused} excused, {seconds:.0f} s", flush=True)
        assert result.excused <= 0.01 * result.steps


if __name__ == "__main__":
    main(tuple(float(value) for value in sys.argv[1:]) or ALPHAS)
