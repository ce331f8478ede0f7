"""What `trace=DIR` costs: the same answers of the demo pair with and without it, through lm-eval's model.

Runs alternate, so that a busy machine slows both alike; the smallest time of each counts.

    python benchmarks/trace_cost.py [prompts] [rounds]
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


def main(num: int = 32, rounds: int = 3) -> None:
    """Print seconds without and with a trace, per strategy."""
    model = AADLM(pair="demo", batch_size=16, device="cpu", answers_dir="none")
    texts = prompts()["test"]["prompt"][:num]
    contexts = [model.apply_chat_template([{"role": "user", "content": text}]) for text in texts]
    for strategy in ("aad", "greedy", "best_of_2"):
        options = {"strategy": strategy, "until": [], "max_gen_toks": TOKENS, "do_sample": False}
        requests = [
            Instance("generate_until", {}, (context, options), 0, metadata=("bench", i, 1))
            for i, context in enumerate(contexts)
        ]
        seconds: dict[bool, list[float]] = {False: [], True: []}
        answers = {}
        with tempfile.TemporaryDirectory() as folder:
            for number in range(rounds):
                for traced in (False, True):
                    tracer = RunTracer(str(Path(folder) / str(number)), "bench", {}, 0) if traced else None
                    model._tracer = tracer
                    start = time.perf_counter()
                    answers[traced] = model.generate_until(requests, disable_tqdm=True)
                    seconds[traced].append(time.perf_counter() - start)
            size = sum(path.stat().st_size for path in Path(folder, "0").iterdir())
        plain, with_trace = min(seconds[False]), min(seconds[True])
        print(
            f"{strategy}: {plain:.2f} s without, {with_trace:.2f} s with ({with_trace / plain - 1:+.1%}); "
            f"{size / num / 1000:.1f} kB per answer; same answers: {answers[True] == answers[False]}",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
