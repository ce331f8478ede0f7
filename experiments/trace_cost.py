"""What `trace=DIR` costs: the same answers of the demo pair with and without it, through lm-eval's model.

A trace needs what shortcuts leave out, so the comparison is with `shortcuts=none`; the time with them is printed beside.
Runs alternate, so that a busy machine slows all alike; the smallest time of each counts.

    python -m experiments.trace_cost [prompts] [rounds]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from lm_eval.api.instance import Instance

from aad_plugin.harness.model import AADLM
from aad_plugin.harness.tracing import RunTracer
from aad_plugin.tasks.demo.dialogue.load import prompts

TOKENS = 64


def main(num: int = 16, rounds: int = 3) -> None:
    """Print seconds without and with a trace, per strategy."""
    model = AADLM(pair="demo", batch_size=16, device="cpu", answers_dir="none")
    texts = prompts()["test"]["prompt"][:num]
    contexts = [model.apply_chat_template([{"role": "user", "content": text}]) for text in texts]
    for strategy in ("aad", "greedy", "best_of_2"):
        options: dict[str, object] = {"strategy": strategy, "until": [], "max_gen_toks": TOKENS, "do_sample": False}
        requests = [
            Instance("generate_until", {}, (context, options), 0, metadata=("bench", i, 1))
            for i, context in enumerate(contexts)
        ]
        seconds: dict[str, list[float]] = {"auto": [], "none": [], "traced": []}
        answers = {}
        with tempfile.TemporaryDirectory() as folder:
            for number in range(rounds):
                for mode in seconds:
                    model._tracer = RunTracer(f"{folder}/{number}", "bench", {}, 0) if mode == "traced" else None
                    model.model.shortcuts = "auto" if mode == "auto" else "none"
                    start = time.perf_counter()
                    answers[mode] = model.generate_until(requests, disable_tqdm=True)
                    seconds[mode].append(time.perf_counter() - start)
            size = sum(path.stat().st_size for path in Path(folder, "0").iterdir())
        best = {mode: min(values) for mode, values in seconds.items()}
        print(
            f"{strategy}: {best['none']:.2f} s without, {best['traced']:.2f} s with a trace "
            f"({best['traced'] / best['none'] - 1:+.1%}), {best['auto']:.2f} s with shortcuts; "
            f"{size / num / 1000:.1f} kB per answer; same answers: {answers['traced'] == answers['none']}",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
