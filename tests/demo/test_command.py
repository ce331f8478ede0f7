"""``make demo`` as a process: lm-eval's table is not the end of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from aad_plugin.cli.demo_showing import figures, side_by_side
from aad_plugin.demo.__main__ import QUESTION, _output_path


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "AAD_OUTPUT_DIR"}
    return subprocess.run(
        [sys.executable, "-m", "aad_plugin.demo", *arguments], capture_output=True, text=True, cwd=folder, env=environment,
        timeout=900,
    )  # fmt: skip


@pytest.mark.slow
def test_the_demo_ends_with_win_rates_answers_a_page_and_the_next_line(tmp_path):
    """It used to end with lm-eval's table and exit status 0: the command-line library left the process."""
    done = demo(tmp_path, "--limit", "3", "--gen_kwargs", "max_gen_toks=16")
    assert done.returncode == 0, done.stderr[-3000:]
    shown = done.stdout[done.stdout.index("Win rates") :]
    for task in ("categorization", "moderation"):
        assert re.search(rf"{task} +│ aad +│ [01]\.\d{{3}} .*\[[+-]\d\.\d{{3}}, [+-]\d\.\d{{3}}\] │ 3 ", shown)
    assert shown.count("right: ") == 2
    assert re.search(r"greedy .*[01]\.\d{3}.*\[[01]\.\d{3}, [01]\.\d{3}\].* 3 ", shown)
    assert len(re.findall(r"┃ aad +┃ greedy +┃ best_of_2 +┃", shown)) == 3, "three prompts, answers side by side"
    (page,) = (tmp_path / "aad_runs" / "demo").glob("aad_demo_dialogue/*/report.html")
    assert f"the run as a page, every answer with its verdict: {page.resolve()}" in shown
    assert "Content-Security-Policy" in page.read_text()
    assert shown.splitlines()[-1].endswith(f'generate "{QUESTION}" --pair demo --strategies aad,greedy')
    assert "has a chat template" not in done.stderr


def test_a_mistake_in_the_demo_is_one_line(tmp_path):
    done = demo(tmp_path, "--limit", "0")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: --limit must be above 0")


def test_the_output_path_is_the_last_one_named():
    assert _output_path([]) == Path("aad_runs")
    assert _output_path(["--limit", "4", "--output_path=x", "-o", "y"]) == Path("y")


def _run_of(home: Path, task: str, rows: list[dict]) -> Path:
    """What lm-eval and a labelling task leave behind, for two answers of each document."""
    folder = home / task / "2026-01-01T00-00-00.000000"
    folder.mkdir(parents=True)
    answers = [
        {"id": str(row["doc"]["id"]), "prompt": "A text\n\nmenu", "outputs": {"aad": "a [b]", "greedy": "c"}}
        for row in rows
    ]
    for file, lines in ((folder / "answers.jsonl", answers), (home / f"samples_{task}_2026.jsonl", rows)):
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_labels_are_right_where_all_of_them_are(tmp_path, capsys):
    """Categorization: aad 2 of 2, greedy 1. Moderation: aad names one of two flags, greedy is unreadable."""
    category = [
        {"doc": {"id": i}, "target": "Category: x", "accuracy_aad": 1.0, "accuracy_greedy": float(i), "unparsed_aad": 0.0,
         "unparsed_greedy": 0.0}
        for i in (0, 1)
    ]  # fmt: skip
    flags = {"doc": {"id": 0, "flags": {"a": 1, "b": 1}}, "target": "Categories: a, b", "unparsed_aad": 0.0}
    flags |= {"f1_a_aad": [1, 1], "f1_b_aad": [1, 0], "f1_a_greedy": [1, None], "f1_b_greedy": [1, None]}
    flags["unparsed_greedy"] = 1.0
    folders = [
        _run_of(tmp_path, "aad_demo_categorization", category),
        _run_of(tmp_path, "aad_demo_moderation", [flags]),
    ]
    console = Console(width=130)
    for part in (*figures(folders), *side_by_side(folders)):
        console.print(part)
    shown = capsys.readouterr().out
    for cells in (
        "categorization │ aad │ 1.000 .* │ 0.000 │ \\+0.500 .* │ 2", "categorization │ greedy │ 0.500 .* │ 0.000 │ │ 2",
        "moderation │ aad │ 0.000 .* │ 0.000 │ \\+0.000 .* │ 1", "moderation │ greedy │ 0.000 .* │ 1.000 │ │ 1",
    ):  # fmt: skip
        assert re.search(cells.replace(" │ ", " *│ *"), shown), cells
    assert "right: Category: x" in shown and "a [b]" in shown and "menu" not in shown
