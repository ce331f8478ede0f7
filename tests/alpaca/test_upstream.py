"""The real alpaca_eval package on files made here; and that neither importing nor running it leaves a trace."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aad_plugin.alpaca.instructions import InstructionSet
from aad_plugin.alpaca.layout import Layout
from aad_plugin.alpaca.leaderboard import WEIGHT_COLUMNS, read_csv, row_of
from aad_plugin.alpaca.lint import lint
from aad_plugin.judges.statistics.results import read_difficulties, read_verdicts
from aad_plugin.judges.statistics.summary import summarize
from tests.alpaca.made import BASELINE, outputs, write
from tests.alpaca.submissions import JUDGE, NAME, change_rows, files
from tests.judges.test_alpaca_eval import annotator, client_config
from tests.public_data import DATA, needs_public_data

__all__ = ["annotator"]

pytestmark = [pytest.mark.slow, needs_public_data]

SHIM = "from aad_plugin.judges.statistics.alpaca_worker import provide_pkg_resources as p; p(); "


def alpaca_eval(code, *arguments, cwd):
    """Run code in a process of its own, with the package as it is installed."""
    done = subprocess.run(
        [sys.executable, "-c", SHIM + code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def gamed(folder: Path) -> Path:
    """A stand-in for df_gamed.csv, which may not be copied: its columns, regulariser rows without a length effect."""
    dice = np.random.default_rng(0)
    path = folder / "df_gamed.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["model", "preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"])
        for model in ("concise", "verbose"):
            for index, value in read_difficulties(DATA / "alpaca_eval_instruction_difficulty.csv").items():
                out.writerow([model, 0.5, index, dice.normal(), value, False])
    return path


EVALUATE = """
import sys
from alpaca_eval import main
main.evaluate(
    model_outputs=sys.argv[1], reference_outputs=sys.argv[2], annotators_config=sys.argv[3], output_path=sys.argv[4],
    precomputed_leaderboard=None, leaderboard_mode_to_print=None, fn_metric="get_winrate", sort_by="win_rate",
    caching_path=None, is_cache_leaderboard=False,
)
"""


def test_alpaca_eval_evaluates_our_805_outputs_and_prints_our_row(aad, annotator, tmp_path, loopback, monkeypatch):
    url, state = loopback(text=None)
    client_config(tmp_path, monkeypatch, url)
    monkeypatch.setenv("OPENAI_MAX_CONCURRENCY", "16")
    made = tmp_path / "gen"
    # outputs of a served model: the same loopback server, which also judges
    saved = write(tmp_path / "saved.json", outputs("x", json.loads(BASELINE.read_text())))
    given = ["--name", "served-model", "--output", made, "--instructions", BASELINE, "--from", saved]
    assert aad("generate", *given).exit_code == 0
    printed = alpaca_eval(EVALUATE, made / "model_outputs.json", BASELINE, annotator, tmp_path / "out", cwd=tmp_path)
    (line,) = [line for line in printed.splitlines() if line.startswith("served-model")]
    print(printed)
    theirs = read_csv(tmp_path / "out" / "leaderboard.csv", ("win_rate", "standard_error", "n_total", "avg_length"))
    assert theirs["served-model"]["n_total"] == "805" == line.split()[-3] and len(state.seen) == 805
    # the same annotator through us: the same figures, and annotations upstream's own functions read
    done = aad("annotate", "--outputs", made, "--reference", BASELINE, "--annotator", annotator, "--output",
               tmp_path / "judged", "--concurrency", "16")  # fmt: skip
    assert done.exit_code == 0, done.output
    row = row_of(json.loads((tmp_path / "judged" / "annotations.json").read_text()))
    for column in ("win_rate", "standard_error", "n_total", "avg_length"):
        assert getattr(row, column) == pytest.approx(float(theirs["served-model"][column]), rel=1e-9), column
    assert sum(state.seen.values()) == 2 * 805  # the same prompts: the same orders were drawn


METRICS = """
import json, sys
import pandas as pd
from alpaca_eval import metrics
from alpaca_eval.metrics import glm_winrate
glm_winrate.hf_hub_download = lambda **_: sys.argv[2]
rows = pd.read_json(sys.argv[1])
raw = metrics.get_winrate(rows)
controlled = metrics.get_length_controlled_winrate(rows, save_weights_dir=None)
print(json.dumps({name: float(value) for name, value in {**controlled, **raw}.items()}))
"""


def test_upstreams_metric_functions_give_our_figures(aad, tmp_path):
    made, annotations = files(tmp_path / "made")
    change_rows(
        annotations, lambda rows: [row | ({"preference": None} if n == 7 else {}) for n, row in enumerate(rows)]
    )
    data = gamed(tmp_path)
    theirs = json.loads(alpaca_eval(METRICS, annotations, data, cwd=tmp_path).splitlines()[-1])
    done = aad(
        "export", "--outputs", made, "--annotations", annotations, "--output", tmp_path / "pr", "--df-gamed", data
    )
    assert done.exit_code == 0, done.output
    pr = Layout(tmp_path / "pr")
    ours = read_csv(pr.leaderboard(JUDGE))[NAME]
    for column, value in theirs.items():
        assert float(ours[column]) == pytest.approx(value, rel=1e-9, abs=1e-9), column
    assert ours["n_total"] == "804"
    weights = read_csv(pr.weights(JUDGE), WEIGHT_COLUMNS)[NAME]
    assert all(np.isfinite(float(weights[column])) for column in WEIGHT_COLUMNS)
    assert [f.rule for f in lint(pr.root)] == ["config", "unjudged"]  # no link; the one row; nothing else
    summary = summarize(read_verdicts(annotations))
    assert summary.win_rate * 100 == pytest.approx(theirs["win_rate"], rel=1e-9)
    assert summary.standard_error * 100 == pytest.approx(theirs["standard_error"], rel=1e-9)
    assert (summary.wins, summary.losses, summary.ties) == (theirs["n_wins"], theirs["n_wins_base"], theirs["n_draws"])


def marks(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_nothing_is_left_in_site_packages_logger_or_environment(
    aad, annotator, tmp_path, own_set, loopback, monkeypatch
):
    url, _ = loopback()
    client_config(tmp_path, monkeypatch, url)
    (tmp_path / ".env").write_text("OPENAI_API_KEY=from-dot-env\nLEFT_BEHIND=1\n")
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.find_spec("alpaca_eval")
    assert spec is not None and spec.origin is not None
    before = marks(Path(spec.origin).parent)
    importlib.import_module("joblib")  # sets a variable when our own statistics import it
    root, environment = logging.getLogger(), dict(os.environ)
    level, handlers = root.level, list(root.handlers)
    made = write(tmp_path / "gen" / "model_outputs.json", outputs("mine"))
    done = aad(
        "annotate", "--outputs", made, "--reference", own_set, "--annotator", annotator, "--output", tmp_path / "j"
    )
    assert done.exit_code == 0, done.output
    _, annotations = files(tmp_path / "made")
    done = aad("leaderboard", "--annotations", annotations, "--df-gamed", gamed(tmp_path))
    assert done.exit_code == 0 and "LC: by the alpaca_eval package" in " ".join(done.stdout.split())
    assert marks(Path(spec.origin).parent) == before
    assert (root.level, root.handlers) == (level, handlers) and dict(os.environ) == environment
    assert "alpaca_eval" not in sys.modules
    assert not list((annotator).glob("*.json"))  # its cache beside the configuration
    assert InstructionSet.official().kind == "official"
