"""vLLM: engines side by side on one card, measured in turn; their tokens against float32.

python -m experiments.gpu.engines FOLDER COUNTS NEW NAMES SECONDS

NAMES are those of one_engine, each with the tree that it imports where that is another: "plain,after=/tree,before=/tree2".
An engine that does not start leaves its place to the others; every line of theirs is printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(folder: Path, counts: str, new: str, names: list[str], seconds: float) -> None:
    """Start all, let them measure in turn, stop them at the latest after ``seconds``."""
    end, trees = time.monotonic() + seconds, dict(name.partition("=")[::2] for name in names)
    logs = Path(os.environ.get("OUT", tempfile.gettempdir()))
    for old in folder.glob("turn.*"):
        old.unlink()
    began, engines = time.monotonic(), {}
    for name, tree in trees.items():
        own = os.environ.get(f"COUNTS_{name.upper()}", counts)
        engines[name] = _start(name, tree, folder, [own, new], logs / f"log.{name}.txt")

    def ready(name: str) -> bool:
        return (folder / f"turn.{name}.ready").exists()

    while time.monotonic() < end and any(not ready(n) and engines[n].poll() is None for n in trees):
        time.sleep(0.3)
    _say("started", seconds=round(time.monotonic() - began, 1), ready=[n for n in trees if ready(n)])
    for name in filter(ready, trees):
        (folder / f"turn.{name}.go").touch()
        done = folder / f"turn.{name}.done"
        while time.monotonic() < end and not done.exists() and engines[name].poll() is None:
            time.sleep(0.1)
        _print(name, logs / f"log.{name}.txt", done.exists(), engines[name].poll() is None)
    for name, engine in engines.items():
        if not ready(name):
            _print(name, logs / f"log.{name}.txt", False, engine.poll() is None)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(engine.pid, signal.SIGKILL)
        engine.wait()
    _say("measured", seconds=round(time.monotonic() - began, 1))


def _start(name: str, tree: str, folder: Path, rest: list[str], log: Path) -> subprocess.Popen[bytes]:
    caches = {
        variable: str(folder / f"cache.{name}" / variable)
        for variable in ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    }
    path = os.pathsep.join(filter(None, [tree, os.environ.get("PYTHONPATH", "")]))
    settings = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_NO_USAGE_STATS": "1"}
    kv = os.environ.get(f"KV_{name.upper()}", os.environ.get("KV", "9"))
    env = {**os.environ, **settings, **caches, "PYTHONPATH": path, "KV_GB": kv}
    command = [sys.executable, str(HERE / "one_engine.py"), name, str(folder), *rest]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True)


def _print(name: str, log: Path, is_whole: bool, is_alive: bool) -> None:
    """Print an engine's own lines, and why they are not all: it ended, or the time did."""
    text = log.read_text(errors="replace")
    for line in text.splitlines():
        if line.startswith('{"engine"'):
            print(line, flush=True)
    if not is_whole:
        errors = [line for line in text.splitlines() if "Error" in line or "error:" in line][-6:]
        errors = ["still at work when the time was over"] if is_alive else errors
        _say("failed", engine=name, errors=errors, end=text[-1500:])


def _say(what: str, **found: object) -> None:
    print(json.dumps({"part": "engines", "what": what, **found}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4].split(","), float(sys.argv[5]))
