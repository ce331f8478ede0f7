"""What `aad serve` says while it starts, and to requests with a temperature or a misspelt strategy; one own server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from aad_plugin.engine.server import _starting

SMALL = ["--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "4", "--enforce-eager"]
MESSAGES = [{"role": "user", "content": "How do I keep bread fresh?"}]


def test_a_server_says_that_compiling_takes_minutes():
    """It used to be silent for two to five minutes."""
    assert "compiles the model before it listens: two to five minutes" in _starting(
        SimpleNamespace(enforce_eager=False)
    )
    assert _starting(SimpleNamespace(enforce_eager=True)) == "starting vLLM without compilation (--enforce-eager)"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """``aad serve demo --ignore-temperature``: its base URL, and the file that holds what it printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = tmp_path_factory.mktemp("serve") / "stdout"
    command = [sys.executable, "-m", "aad_plugin.cli", "serve", "demo", "--ignore-temperature", *SMALL]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    with said.open("w") as out:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], env=environment, stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + 400
        while True:
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1", said
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def ask(base: str, **more) -> tuple[int, dict]:
    body = {"model": "aad", "messages": MESSAGES, "max_tokens": 8, **more}
    request = urllib.request.Request(
        f"{base}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


@pytest.mark.engine
@pytest.mark.grid
@pytest.mark.xdist_group("served words")
def test_a_server_says_that_it_starts_and_that_its_self_test_passed(server):
    said = server[1].read_text()
    assert "starting vLLM without compilation (--enforce-eager)" in said
    assert "self-test passed: " in said and said.index("starting vLLM") < said.index("self-test passed")


@pytest.mark.engine
@pytest.mark.grid
@pytest.mark.xdist_group("served words")
def test_a_chat_clients_temperature_is_ignored_where_the_server_was_told_so(server):
    (status, warm), (_, cold) = ask(server[0], temperature=0.7), ask(server[0], temperature=0)
    assert status == 200, warm
    assert warm["choices"][0]["message"]["content"] == cold["choices"][0]["message"]["content"]


@pytest.mark.engine
@pytest.mark.grid
@pytest.mark.xdist_group("served words")
def test_a_misspelt_strategy_lists_those_that_are_served(server):
    status, told = ask(server[0], vllm_xargs={"aad_strategy": "gredy"})
    assert status == 400
    assert "must be one of aad, greedy, reference, eft, got 'gredy' (did you mean 'greedy'?)" in json.dumps(told)
