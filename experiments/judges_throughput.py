"""Judging speed against a loopback server: ours at 500 ms latency, alpaca_eval's annotator there, ours at no latency.

    python -m experiments.judges_throughput          needs the extras judges and alpaca; about a minute

Prints calls per second, the share of the ideal (concurrency / latency), and CPU time per call of this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

LATENCY_S = 0.5
CONCURRENCY = 64
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


@contextmanager
def server(latency_s: float):
    """A loopback judge that answers after so many seconds, in a process of its own; gives its URL."""
    command = [sys.executable, "-m", "tests.judges.loopback", "--latency", str(latency_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.kill()
        process.wait()


def ours(url: str, num: int) -> tuple[float, float]:
    """(calls per second, CPU milliseconds per call) over `num` comparisons in both orders."""
    from aad_plugin.judges import compare, load_judge
    from tests.judges.conftest import made_up

    judge = load_judge("openai:planted", base_url=url, concurrency=CONCURRENCY, form="logprobs")
    compare(made_up(20), judge, progress=False)  # imports
    with tempfile.TemporaryDirectory() as folder:
        started, cpu = time.perf_counter(), time.process_time()
        verdicts = compare(made_up(num), judge, folder, progress=False)
        seconds, busy = time.perf_counter() - started, time.process_time() - cpu
    assert all(verdict.judged for verdict in verdicts)
    return 2 * num / seconds, 1000 * busy / (2 * num)


def theirs(url: str, num: int) -> float:
    """Calls per second of alpaca_eval's annotator at its defaults, one call per comparison."""
    from aad_plugin.judges.statistics.alpaca_worker import provide_pkg_resources
    from tests.judges.conftest import made_up
    from tests.judges.test_alpaca_eval import CONFIG, PROMPT

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "planted"
        home.mkdir()
        (home / "configs.yaml").write_text(CONFIG)
        (home / "prompt.txt").write_text(PROMPT)
        client = Path(folder) / "client.yaml"
        client.write_text(f"default: [{{api_key: x, base_url: '{url}'}}]\n")
        os.environ |= {"OPENAI_CLIENT_CONFIG_PATH": str(client), "OPENAI_API_KEY": "x"}
        provide_pkg_resources()
        from alpaca_eval.annotators import PairwiseAnnotator

        annotator = PairwiseAnnotator(annotators_config=str(home), caching_path=None)
        pairs = [{"instruction": c.prompt, "output_1": c.baseline, "output_2": c.candidate} for c in made_up(num)]
        started = time.perf_counter()
        rows = annotator.annotate_pairs(pairs)
        seconds = time.perf_counter() - started
    assert len(rows) == num
    return num / seconds


def main() -> None:
    """Print the three speeds."""
    with server(LATENCY_S) as url:
        rate, _ = ours(url, 1280)
        ideal = CONCURRENCY / LATENCY_S
        print(f"ours, {LATENCY_S} s latency, {CONCURRENCY} in flight: {rate:.1f} calls/s, {rate / ideal:.1%} of ideal")
        other = theirs(url, 100)
        print(f"alpaca_eval's annotator, its defaults: {other:.1f} calls/s; ours is {rate / other:.1f} times that")
    with server(0.0) as url:
        rate, busy = ours(url, 2500)
        print(f"ours, no latency: {rate:.0f} calls/s, {busy:.2f} ms of CPU per call")


if __name__ == "__main__":
    main()
