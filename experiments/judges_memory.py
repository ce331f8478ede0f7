"""Peak memory of judging 5,000 and 50,000 requests, each in a process of its own.

python -m experiments.judges_memory          several minutes
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN = """
import resource, sys, tempfile
from aad_plugin.judges import compare, load_judge, summarize
from tests.judges.conftest import made_up
judge = load_judge("openai:planted", base_url=sys.argv[1], concurrency=64, form="logprobs")
with tempfile.TemporaryDirectory() as folder:
    verdicts = compare(made_up(int(sys.argv[2]) // 2), judge, folder, progress=False)
summary = summarize(verdicts)
assert summary.n_unjudged == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mb(url: str, requests: int) -> float:
    """Peak resident memory in MB of a run with so many requests, texts, statistics and all."""
    command = [sys.executable, "-c", RUN, url, str(requests)]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print both peaks and their difference."""
    sys.path.insert(0, str(ROOT))
    from experiments.judges_throughput import server

    with server(0.0) as url:
        small, large = peak_mb(url, 5_000), peak_mb(url, 50_000)
    print(f"peak at 5,000 requests {small:.0f} MB, at 50,000 {large:.0f} MB: {large - small:.0f} MB more")


if __name__ == "__main__":
    main()
