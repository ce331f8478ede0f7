"""The same request file, answered by `vllm serve` live and by `vllm run-batch`: the same verdicts.

Needs vLLM's environment: AAD_VLLM_PYTHON names its interpreter (default: this one).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from aad_plugin.demo.assets import base_model_path
from aad_plugin.judges import Comparison, compare, load_judge, summarize

pytestmark = pytest.mark.engine

PYTHON = os.environ.get("AAD_VLLM_PYTHON", sys.executable)
ENGINE = ["--dtype", "float32", "--max-model-len", "2048", "--served-model-name", "smol"]
ENVIRONMENT = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
QUESTIONS = [
    ("What is the capital of France?", "The capital of France is Paris.", "I like trains."),
    ("Name a fruit.", "An apple is a fruit.", "A hammer."),
    ("What colour is the sky on a clear day?", "It is blue.", "Seven."),
    ("How many legs has a spider?", "A spider has eight legs.", "A spider has two legs."),
    ("Say hello in French.", "Bonjour!", "Guten Tag!"),
    ("What do bees make?", "Bees make honey and wax.", "Bees make furniture, mostly chairs."),
    ("Which planet do we live on?", "We live on Earth.", "On Mars, as everybody knows."),
    ("What is 3 + 4?", "3 + 4 = 7", "3 + 4 = 12"),
]


@pytest.fixture(scope="module")
def items():
    return [Comparison(str(i), *question) for i, question in enumerate(QUESTIONS)]


@pytest.fixture(scope="module")
def served():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(base_model_path()), *ENGINE]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 400
        while True:
            assert process.poll() is None and time.monotonic() < deadline, "vLLM's server did not start"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def test_live_and_run_batch_give_the_same_verdicts(items, served, tmp_path):
    judge = load_judge("openai:smol", base_url=served)
    live = compare(items, judge, tmp_path / "live", progress=False)
    assert judge.form == "logprobs"

    folder = tmp_path / "file"
    compare(items, load_judge("openai:smol"), folder, progress=False, transport="file")
    command = [PYTHON, "-m", "vllm.entrypoints.openai.run_batch", "--model", str(base_model_path()), *ENGINE]
    files = ["-i", str(folder / "requests.jsonl"), "-o", str(folder / "results.jsonl")]
    subprocess.run([*command, *files], check=True, env=ENVIRONMENT, timeout=500)
    batch = compare(items, load_judge("openai:smol"), folder, progress=False, transport="file")

    assert [v.reason for v in live] == [v.reason for v in batch]
    pairs = [(a, b) for one, two in zip(live, batch, strict=True) for a, b in zip(one.orders, two.orders, strict=True)]
    assert len(pairs) >= 10  # a model this small does not always reply with a letter
    assert max(abs(a - b) for a, b in pairs) < 1e-3
    print(f"largest difference over {len(pairs)} rulings: {max(abs(a - b) for a, b in pairs):.2e}")
    assert abs(summarize(live).win_rate - summarize(batch).win_rate) < 1e-3


def test_json_form_is_a_last_resort_that_works(items, served):
    verdicts = compare(items[:2], load_judge("openai:smol", base_url=served, form="json"), progress=False)
    assert all(v.judged and set(v.orders) <= {0.0, 0.5, 1.0} for v in verdicts)
