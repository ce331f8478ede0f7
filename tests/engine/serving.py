"""One served demo pair and one file of requests for everything that asks a server or reads a batch's answers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ENVIRONMENT = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
ENGINE = ["--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "32", "--enforce-eager"]
AAD = [sys.executable, "-m", "aad_plugin.cli"]
QUESTIONS = [
    "How do I keep bread fresh?",
    "Why is the sky blue?",
    "Name two uses of baking soda.",
    "What is a library card for?",
    "Write a birthday wish for a colleague.",
    "How does a zipper work?",
    "What does a thermostat do?",
    "Give me one idea for a rainy Sunday.",
]
# Question, a good answer, a bad one.
JUDGED = [
    ("What is the capital of France?", "The capital of France is Paris.", "I like trains."),
    ("Name a fruit.", "An apple is a fruit.", "A hammer."),
    ("What colour is the sky on a clear day?", "It is blue.", "Seven."),
    ("How many legs has a spider?", "A spider has eight legs.", "A spider has two legs."),
    ("Say hello in French.", "Bonjour!", "Guten Tag!"),
    ("What do bees make?", "Bees make honey and wax.", "Bees make furniture, mostly chairs."),
    ("Which planet do we live on?", "We live on Earth.", "On Mars, as everybody knows."),
    ("What is 3 + 4?", "3 + 4 = 7", "3 + 4 = 12"),
]


@contextlib.contextmanager
def listening(command: Sequence[str]) -> Iterator[str]:
    """Start a server on a free port of this machine; its base URL once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 400
        while True:
            assert process.poll() is None and time.monotonic() < deadline, "the server did not start"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        if process.poll() is None:
            process.kill()


@pytest.fixture(scope="session")
def served_demo():
    """``aad serve demo``, float32."""
    with listening([*AAD, "serve", "demo", *ENGINE]) as address:
        yield address


@dataclass(frozen=True)
class Batch:
    """What one ``aad run-batch demo`` answered: of lines written by hand, and of a judge's request file."""

    rows: dict[str, dict]
    judge_folder: Path


def judge_items():
    """Comparisons of the good and the bad answers."""
    from aad_plugin.judges import Comparison

    return [Comparison(str(number), *row) for number, row in enumerate(JUDGED)]


@pytest.fixture(scope="session")
def batch(tmp_path_factory):
    """One engine answers both kinds of requests."""
    from aad_plugin.judges import compare, load_judge

    root = tmp_path_factory.mktemp("batch")
    judge = root / "judge"
    compare(judge_items(), load_judge("openai:aad-reference", form="json"), judge, progress=False, transport="file")

    def line(custom_id: str, model: str, **more) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 24, **more}
        return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})

    own = [line("a", "aad"), line("g", "aad-greedy"), line("r", "aad-reference"), line("x", "aad", temperature=1)]
    requests, answers = root / "in.jsonl", root / "out.jsonl"
    requests.write_text("\n".join(own) + "\n" + (judge / "requests.jsonl").read_text("utf-8"), encoding="utf-8")
    command = [*AAD, "run-batch", "demo", "-i", str(requests), "-o", str(answers), *ENGINE]
    subprocess.run(command, check=True, env=ENVIRONMENT)
    lines = answers.read_text("utf-8").splitlines()
    found = {row["custom_id"]: (row["response"], text) for text in lines for row in [json.loads(text)]}
    rest = [text for name, (_, text) in found.items() if len(name) > 1]
    (judge / "results.jsonl").write_text("\n".join(rest) + "\n", encoding="utf-8")
    return Batch({name: response for name, (response, _) in found.items()}, judge)
