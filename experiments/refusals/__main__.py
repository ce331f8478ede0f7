"""Learn and measure the reader of refusals.

    python -m experiments.refusals measure [DATA]     every figure of docs/judge_quality.md, "Refusals"; nested folds
    python -m experiments.refusals fit [DATA]         judges/refusals/weights.json

DATA is a folder with upstream's files, `../shared/data` beside the checkout by default.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import sklearn
from sklearn.metrics import brier_score_loss, cohen_kappa_score

from aad_plugin.judges.refusals import LABELS, UNSURE
from experiments.refusals.data import Labelled, load, table
from experiments.refusals.fitting import fit, half_of, is_counted, labels_of

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "judges" / "refusals" / "weights.json"
ATTRIBUTION = [
    "XSTest v2 (Röttger, Kirk, Vidgen, Attanasio, Bianchi, Hovy 2024, arXiv 2308.01263; paul-rottger/exaggerated-safety, "
    "CC-BY-4.0): the even rows of the human-labelled answers of five models, 1,125 answers",
    "ChatGPT refusals (Reuter, Schulze 2023, arXiv 2306.03423; maxwellreuter/chatgpt-refusals, MIT): 700 hand-labelled "
    "answers on political figures",
]


def measure(rows: Sequence[Labelled]) -> None:
    """Print kappa, calibration and the uncertain share over folds that are pooled; everything is chosen inside them."""
    values, _ = table(list(rows))
    political = np.array([bool(row.figure) for row in rows])
    models = np.array([row.model for row in rows])
    by_model = _left_out(values, rows, lambda row: None if row.figure else row.model)
    by_type = _left_out(values, rows, lambda row: None if row.figure else row.kind)
    by_half = _left_out(values, rows, lambda row: str(half_of(row.figure)) if row.figure else None)
    by_ask = _left_out(values, rows, lambda row: row.prompt.replace(row.figure, "…") if row.figure else None)
    print("| left out | n | refusal or not | three labels |\n|---|---|---|---|")
    _row("XSTest, a model", by_model, rows, ~political)
    for model in sorted(set(models[~political])):
        _row(f"… {model}", by_model, rows, models == model)
    _row("XSTest, a type of prompt", by_type, rows, ~political)
    _row("political, a half of the figures", by_half, rows, political)
    _row("political, a wording", by_ask, rows, political)
    people = [row for row in rows if row.both]
    for model in [None, *sorted({row.model for row in people})]:
        pairs = [row.both for row in people if row.both and model in (None, row.model)]
        one, two = zip(*pairs, strict=True)
        refused = [[said != "1_full_compliance" for said in side] for side in (one, two)]
        print(
            f"| two people, {model or 'XSTest'} | {len(one)} | {cohen_kappa_score(*refused):.3f} | "
            f"{cohen_kappa_score(one, two):.3f} |"
        )
    for name, scores, mask in (("XSTest by model", by_model, ~political), ("XSTest by type", by_type, ~political),
                               ("political by half", by_half, political)):  # fmt: skip
        _calibration(name, scores, rows, mask)
    disclaimed = np.array([row.said == "disclaimed" for row in rows])
    print(
        f"disclaimed answers read as comply: {int((labels_of(by_half)[disclaimed] == 0).sum())} of {disclaimed.sum()}"
    )


def _left_out(values: np.ndarray, rows: Sequence[Labelled], group: Callable[[Labelled], str | None]) -> np.ndarray:
    """(N, 3) scores of every row that has a group, by a model fitted without that group; NaN for the others."""
    groups = [group(row) for row in rows]
    scores = np.full((len(rows), 3), np.nan)
    for name in sorted({one for one in groups if one is not None}):
        out = np.array([one == name for one in groups])
        kept = [row for row, is_out in zip(rows, out, strict=True) if not is_out]
        scores[out] = fit(values[~out], kept).scores(values[out])
    return scores


def _row(name: str, scores: np.ndarray, rows: Sequence[Labelled], mask: np.ndarray) -> None:
    truth, said, counted = np.array([row.label for row in rows]), labels_of(scores), is_counted(rows) & mask
    two = cohen_kappa_score(truth[counted] > 0, said[counted] > 0)
    three = cohen_kappa_score(truth[mask], said[mask])
    print(f"| {name} | {counted.sum()} | {two:.3f} | {three:.3f} ({mask.sum()}) |", flush=True)


def _calibration(name: str, scores: np.ndarray, rows: Sequence[Labelled], mask: np.ndarray) -> None:
    counted = is_counted(rows) & mask
    truth, p = np.array([row.label for row in rows])[counted] > 0, 1 - scores[counted, 0]
    bins = np.clip((10 * p).astype(int), 0, 9)
    error = sum((bins == b).mean() * abs(truth[bins == b].mean() - p[bins == b].mean()) for b in np.unique(bins))
    sure = (p <= UNSURE[0]) | (p >= UNSURE[1])
    print(
        f"{name}: Brier score {brier_score_loss(truth, p):.3f}, calibration error {error:.3f} (ten bins); unsure "
        f"{1 - sure.mean():.3f}; right where sure {((p > 0.5) == truth)[sure].mean():.3f}, kappa there "
        f"{cohen_kappa_score(truth[sure], p[sure] > 0.5):.3f}; kappa if the unsure were read right "
        f"{cohen_kappa_score(truth, np.where(sure, p > 0.5, truth)):.3f}"
    )


def write_weights(rows: Sequence[Labelled]) -> None:
    """Fit on all rows and write the weights with their origin."""
    values, names = table(list(rows))
    model = fit(values, rows)
    content = {
        "made_by": "python -m experiments.refusals fit",
        "library": f"scikit-learn {sklearn.__version__}, LogisticRegression",
        "strength": model.strength,
        "sharpness": model.sharpness,
        "attribution": ATTRIBUTION,
        "labels": LABELS,
        "intercept": [round(float(x), 5) for x in model.intercept],
        "weights": {name: [round(float(x), 5) for x in own] for name, own in zip(names, model.weights.T, strict=True)},
    }
    text = json.dumps(content, ensure_ascii=False, indent=1)
    WEIGHTS.write_text(_one_line_lists(text) + "\n", encoding="utf-8")
    print(f"{WEIGHTS}: {len(names)} features, C {model.strength:g}, sharpness {model.sharpness:g}")


def _one_line_lists(text: str) -> str:
    return re.sub(r"\[\s+([-\d.,\s]+?)\s+\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    steps = {"measure": measure, "fit": write_weights}
    if what not in steps:
        sys.exit(__doc__)
    steps[what](load(Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT.parent / "shared" / "data"))
