"""``make demo`` as a process: lm-eval's table is not the end of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
    done = demo(tmp_path, "--limit", "4")
    assert done.returncode == 0, done.stderr[-3000:]
    shown = done.stdout[done.stdout.index("Win rates") :]
    for task in ("categorization", "moderation"):
        assert re.search(rf"{task} +│ aad +│ [01]\.\d{{3}} .*\[[+-]\d\.\d{{3}}, [+-]\d\.\d{{3}}\] │ 4 ", shown)
    assert shown.count("right: ") == 2
    assert re.search(r"greedy .*[01]\.\d{3}.*\[[01]\.\d{3}, [01]\.\d{3}\].* 4 ", shown)
    assert len(re.findall(r"┃ aad +┃ greedy +┃ best_of_2 +┃", shown)) == 3, "three prompts, answers side by side"
    (page,) = (tmp_path / "aad_runs" / "demo").glob("aad_demo_dialogue/*/report.html")
    assert f"the run as a page, every answer with its verdict: {page.resolve()}" in shown
    assert "Content-Security-Policy" in page.read_text()
    assert shown.splitlines()[-1].endswith(f'generate "{QUESTION}" --pair demo --strategy aad --strategy greedy')
    assert "has a chat template" not in done.stderr


def test_a_mistake_in_the_demo_is_one_line(tmp_path):
    done = demo(tmp_path, "--limit", "0")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: --limit must be above 0")


def test_the_output_path_is_the_last_one_named():
    assert _output_path([]) == Path("aad_runs")
    assert _output_path(["--limit", "4", "--output_path=x", "-o", "y"]) == Path("y")
