"""A folder with everything that documented commands name, as toys: pairs, prompts, answers, labels, judged runs, a judge.

Commands are run in it as they are written: presets lead to a toy pair, and OPENAI_BASE_URL to a judge on loopback.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from typer.testing import CliRunner

from aad_plugin.cli.main import app
from aad_plugin.sources import presets
from tests.conftest import Checkpoints
from tests.judges.loopback import Loopback, serving
from tests.report.planted import texts, write_run
from tests.study.conftest import toy_reward

NUM = 24
GATE = "gates:\n  - {task: planted, metric: acc, smallest_drop: 0.5}\n"


class _AnyModel(str):
    """A served model that answers to every name."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def _lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _answers(start: str) -> list[dict]:
    return [{"instruction": f"Question {i}?", "output": f"{start} to {i} " + "x " * (i % 7)} for i in range(NUM)]


def fill(folder: Path, checkpoints: Checkpoints) -> None:
    """Write what the documents' commands read, under the names they use."""
    for name in ("my/dpo", "my/sft"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(checkpoints.policy if name.endswith("dpo") else checkpoints.reference)
    for name in ("R", "rm", "my/reward-model"):
        (folder / name).symlink_to(
            toy_reward(folder / "reward") if not (folder / "reward").is_dir() else folder / "reward"
        )
    _lines(folder / "FILE", [{"prompt": f"Say {i}"} for i in range(6)])
    _lines(folder / "prompts.jsonl", [{"prompt": f"Say {i}"} for i in range(6)])
    chosen = [{"prompt": f"Say {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(12)]
    _lines(folder / "held_out.jsonl", chosen)
    for name, start in (("ours", "One"), ("theirs", "Two")):
        _lines(folder / f"{name}.jsonl", _answers(start))
    for name in ("model_outputs", "other", "a", "b", "base", "answers", "x", "y"):
        (folder / f"{name}.json").write_text(json.dumps(_answers(f"Answer {name}")), encoding="utf-8")
    for name in ("samples_x", "samples"):
        rows = [
            {"id": str(i), "prompt": f"Question {i}?", "outputs": {"aad": f"a {i}", "greedy": f"greedy answer {i}"}}
            for i in range(NUM)
        ]
        _lines(folder / f"{name}.jsonl", rows)
    _lines(folder / "human.jsonl", [
        {"prompt": f"Question {i}?", "candidate": f"A long answer {i}", "baseline": "no", "label": "candidate"}
        for i in range(NUM)
    ])  # fmt: skip
    (folder / "somebody_elses.txt").write_text("Put it in a box.", encoding="utf-8")
    battles = [
        {"question_id": f"q{i}", "model_a": one, "model_b": two, "winner": "model_a" if i % 3 else "model_b"}
        for i in range(NUM)
        for one, two in (("base", "m1"), ("m1", "m2"), ("base", "m2"))
    ]
    _lines(folder / "battles.jsonl", battles)
    (folder / "gate.yaml").write_text(GATE, encoding="utf-8")
    for name, seed in (("out", 0), ("runs/monday", 0), ("runs/today", 1)):
        (folder / name).mkdir(parents=True)
        labels = [{"acc": float(i % 2)} for i in range(NUM)]
        write_run(folder / name, texts(NUM, 20, seed), seed=seed, labels=labels, direction={"acc": True})


@contextmanager
def living(folder: Path, checkpoints: Checkpoints, monkeypatch) -> Iterator[None]:
    """Stand in the folder: presets are the toy pair, judges are served on loopback."""
    toy = presets.Preset(str(checkpoints.policy), str(checkpoints.reference), "a toy pair")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("AAD_CACHE_DIR", str(folder / "cache"))
    with (
        mock.patch.dict(presets.PRESETS, {name: toy for name in presets.PRESETS}),
        serving(Loopback(model=_AnyModel("planted"))) as url,
    ):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        yield


def prepare() -> None:
    """Make what a document takes for granted: a pair folder, two files judged against each other."""
    for name in ("P", "dpo"):
        run(f"aad pairs save {name} --policy my/dpo --reference my/sft")
    run("aad judge --candidate a.json --baseline b.json --judge openai:gpt-4.1-mini --output runs/a_vs_b")


def run(text: str) -> None:
    """Run an ``aad`` command in this process, and raise AssertionError with its output unless it ends well."""
    program, *words = shlex.split(text)
    assert program == "aad", f"only aad's commands are run here, got {text}"
    done = CliRunner().invoke(app(), words)
    assert done.exit_code == 0, f"{text}\nends with {done.exit_code}: {done.exception!r}\n{done.output[-2000:]}"
