"""kill -9 at random instants: nothing is lost, nothing is paid for twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import urllib.request

import pytest

from aad_plugin.judges import compare, load_judge
from tests.judges.conftest import made_up

NUM = 400
CONCURRENCY = 16
RUN = f"""
import json
import sys
from aad_plugin.judges import compare, load_judge
from tests.judges.conftest import made_up
judge = load_judge("openai:planted", base_url=sys.argv[1], concurrency={CONCURRENCY})
verdicts = compare(made_up({NUM}), judge, sys.argv[2], progress=False)
print(json.dumps([v.p for v in verdicts]))
"""


@pytest.fixture(scope="module")
def server():
    command = [sys.executable, "-m", "tests.judges.loopback", "--latency", "0.02"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.kill()
    process.wait()


def seen(server):
    with urllib.request.urlopen(f"{server}/stats") as reply:
        return json.load(reply)["seen"]


def killed_at(seconds, server, folder):
    """Start the run, kill it `seconds` after its first ruling; False if it had ended before."""
    process = subprocess.Popen([sys.executable, "-c", RUN, f"{server}/v1", str(folder)], stdout=subprocess.DEVNULL)
    store = folder / "store.jsonl"
    size = store.stat().st_size if store.exists() else 0
    while process.poll() is None and not (store.exists() and store.stat().st_size > size):
        time.sleep(0.005)
    time.sleep(seconds)
    ended = process.poll() is not None
    process.kill()
    process.wait()
    return not ended


def resumed(server, folder):
    done = subprocess.run([sys.executable, "-c", RUN, f"{server}/v1", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(kills, server, tmp_path, seed):
    judge = load_judge("openai:planted", base_url=f"{server}/v1", concurrency=CONCURRENCY)
    undisturbed = [v.p for v in compare(made_up(NUM), judge, progress=False)]
    dice = random.Random(seed)
    longest = 2 * NUM / CONCURRENCY * 0.02
    for number in range(kills):
        before = seen(server)
        folder = tmp_path / str(number)
        assert killed_at(dice.uniform(0, longest), server, folder)
        assert resumed(server, folder) == undisturbed
        twice = [times - before.get(key, 0) for key, times in seen(server).items()]
        # Every request was sent once; those in flight at the kill, no more than fit in flight, a second time.
        assert set(twice) <= {1, 2} and twice.count(2) <= CONCURRENCY
        assert len(twice) == 2 * NUM + 1


def test_a_kill_costs_no_more_than_what_was_in_flight(server, tmp_path):
    check(1, server, tmp_path, seed=1)


@pytest.mark.grid
def test_twenty_five_kills(server, tmp_path):
    check(25, server, tmp_path, seed=2)
