"""Hold our figures to upstream's own scorers, which stand outside of this project.

python -m tests.judges.protocols.upstream V01 V20 FASTCHAT

V01 and V20 are folders with ``show_result.py`` and its helpers of lmarena/arena-hard-auto at a06dde2 and 196f6b8 (``git
archive`` gives them), FASTCHAT one with lm-sys/FastChat's ``fastchat/llm_judge/show_result.py``. alpaca_eval is the
installed one. Planted files are written, upstream's programs read them, and every figure is printed beside ours.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from aad_plugin.judges.leagues.style import FEATURES
from aad_plugin.judges.protocols.alpaca_eval_2 import winrate_figures
from aad_plugin.judges.protocols.arena_hard import scores_of
from aad_plugin.judges.protocols.mt_bench import grade_row, graded_scores, pair_row, paired_scores
from tests.judges.protocols import planted

# Upstream's functions, called in upstream's order on upstream's files; numpy 2 has no NAN any more.
_V01 = """
import json, sys, numpy as np
np.NAN = np.nan
import show_result as s, utils_math as m
style = sys.argv[1] == "style"
battles = s.get_battles_from_judgment("arena-hard-v0.1", "planted-judge", baseline_model="base", style_control=style)
if style:
    found = m.fit_bt(*m.construct_style_matrices(battles), baseline_model="base")[0]
else:
    found = m.compute_mle_elo(battles, baseline_model="base")
wins = {k: 1 / (1 + 10 ** ((found["base"] - v) / 400)) for k, v in found.items() if k != "base"}
print("FOUND " + json.dumps(wins))
"""
_V20 = """
import json, sys, numpy as np, pandas as pd
import show_result as s
s.JUDGE_SETTINGS["hard_prompt"]["baseline"] = "base"
battles = s.load_judgments(["planted-judge"], "arena-hard-v2.0")
if sys.argv[1] == "style":
    # One converged fit of all battles in the place of a hundred resamples.
    import utils.math_utils as m
    s.bootstrap_pairwise_model = lambda x, y, loss_type: (
        m.fit_pairwise_model(x.double(), y.double(), loss_type, max_epochs=5000, lr=1.0)[0][None], None)
    m.BTModel.__init__.__globals__["torch"].set_default_dtype(m.torch.float64)
    kept = {}
    plain = s.format_confidence_interval
    def keep(mean, *a, **k):
        kept.update(mean.set_index("model")["scores"])
        return plain(mean, *a, **k)
    s.format_confidence_interval = keep
    s.print_leaderboard_with_style_features(battles, "arena-hard-v2.0", "hard_prompt", ["length", "markdown"])
    wins = {k: float(v) for k, v in kept.items() if k != "base"}
else:
    wins = battles.groupby("model")["scores"].mean().astype(float).to_dict()
print("FOUND " + json.dumps(wins))
"""


def _run(code: str, folder: Path, source: Path, *arguments: str) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    found = re.search(r"FOUND (.*)", done.stdout)
    if found is None:
        raise SystemExit(f"upstream's scorer failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return json.loads(found[1])


def arena(version: str, source: Path, style: bool) -> float:
    """Print both sides' scores; return the largest difference (shares of points)."""
    judgments = planted.arena_judgments()
    ours = {one.model: one.value for one in scores_of(judgments, version, FEATURES if style else ())}
    with tempfile.TemporaryDirectory() as folder:
        planted.write_arena(Path(folder), judgments, version)
        code = _V01 if version == "v0.1" else _V20
        theirs = _run(code, Path(folder), source, "style" if style else "plain")
    print(f"Arena-Hard {version}{', style' if style else ''}")
    for name, value in ours.items():
        print(f"  {name}: ours {100 * value:.5f} %, theirs {100 * theirs[name]:.5f} %")
    return max(abs(value - theirs[name]) for name, value in ours.items())


def program(version: str, source: Path) -> None:
    """Run ``show_result.py`` itself, as a user would, and print its table."""
    with tempfile.TemporaryDirectory() as folder:
        planted.write_arena(Path(folder), planted.arena_judgments(), version)
        shim = Path(folder, "sitecustomize.py")
        shim.write_text("import numpy\nnumpy.NAN = numpy.nan\n")
        options = ["--judge-name", planted.JUDGE, "--baseline", planted.BASELINE]
        options = options if version == "v0.1" else ["--judge-names", planted.JUDGE]
        Path(folder, "leaderboard").mkdir()
        environment = {**os.environ, "PYTHONPATH": f"{folder}:{source}"}
        done = subprocess.run(
            [sys.executable, str(source / "show_result.py"), *options],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if "model-" in line]
        print("\n".join(lines) or done.stderr[-1500:])


def mt_bench(source: Path) -> None:
    """FastChat's two tables beside ours."""
    with tempfile.TemporaryDirectory() as folder:
        single, pair = Path(folder, "single.jsonl"), Path(folder, "pair.jsonl")
        grades, pairs = planted.grades(), planted.pairs()
        single.write_text("".join(json.dumps(grade_row(one, planted.JUDGE, "grade")) + "\n" for one in grades))
        pair.write_text("".join(json.dumps(pair_row(one, planted.JUDGE, "pair")) + "\n" for one in pairs))
        for mode, file in (("single", single), ("pairwise-all", pair)):
            command = [sys.executable, str(source / "show_result.py"), "--mode", mode, "--input-file", str(file)]
            print(subprocess.run(command, capture_output=True, text=True).stdout)
    for name, row in {**graded_scores(grades), **paired_scores(pairs)}.items():
        print(f"ours, {name}: {row}")


def alpaca_eval() -> float:
    """alpaca_eval's ``pairwise_to_winrate`` on preferences, ties and gaps; the largest difference to ours."""
    from aad_plugin.judges.statistics.alpaca_worker import provide_pkg_resources

    provide_pkg_resources()
    from alpaca_eval.metrics.winrate import pairwise_to_winrate

    dice = np.random.default_rng(0)
    p = [None if dice.random() < 0.05 else float(dice.choice([0.0, 0.5, 1.0, dice.random()])) for _ in range(400)]
    theirs = pairwise_to_winrate([np.nan if one is None else 1 + one for one in p])
    ours = winrate_figures(p)
    print("AlpacaEval 2")
    for name, value in ours.items():
        print(f"  {name}: ours {value:.6f}, theirs {theirs[name]:.6f}")
    return max(abs(value - theirs[name]) for name, value in ours.items())


def main() -> None:
    v01, v20, fastchat = map(Path, sys.argv[1:4])
    for version, source in (("v0.1", v01.resolve()), ("v2.0", v20.resolve())):
        for style in (False, True):
            print(f"  largest difference {arena(version, source, style):.2e}")
        program(version, source)
    mt_bench(fastchat.resolve())
    print(f"  largest difference {alpaca_eval():.2e}")


if __name__ == "__main__":
    main()
