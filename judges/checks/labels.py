"""Human verdicts over any answers: what a judge is asked to agree with.

A file of JSON lines, or a CSV with a header:
    pairwise   prompt, candidate, baseline, label: candidate | baseline | tie | number in 0..1
    pointwise  prompt, output (or completion), label: one of the template's labels, or a grade
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.judges.checks.label_menu import menu_of_judge
from aad_plugin.judges.items import Answer, Comparison
from aad_plugin.judges.sitting.judge import Judge
from aad_plugin.judges.sitting.judging import compare, grade
from aad_plugin.judges.statistics.labels import label_figures
from aad_plugin.texts.answer_files import OUTPUT_FIELDS
from aad_plugin.texts.prompts import check_text, prompt_of
from aad_plugin.texts.rows import json_rows


def agreement_with(
    judge: Judge, path: str | Path, output_dir: str | Path | None = None, *, progress: bool = True, **sitting: Any
) -> dict[str, Any]:
    """Judge labelled answers and compare: agreement with interval, kappa with interval, counts; see `labels`.

    Raises:
        ConfigError: the file does not hold what a judge of this kind needs.
    """
    items, labels = read_labelled(path, judge)
    run = compare if judge.kind == "pairwise" else grade
    verdicts = run(items, judge, output_dir, progress=progress, **sitting)  # type: ignore[operator]
    unjudged = sum(not verdict.judged for verdict in verdicts)
    return {"num_items": len(items), "num_unjudged": unjudged} | label_figures(verdicts, labels)


def read_labelled(path: str | Path, judge: Judge) -> tuple[list[Any], dict[str, Any]]:
    """Items for a judge, and labels by item id; raises as `agreement_with`."""
    items: list[Any] = []
    labels: dict[str, Any] = {}
    menu = menu_of_judge(judge)
    for number, (place, row) in enumerate(_rows(Path(path))):
        output = next((name for name in OUTPUT_FIELDS if row.get(name) is not None), "output")
        wanted = ("candidate", "baseline", "label") if judge.kind == "pairwise" else (output, "label")
        missing = [name for name in wanted if not isinstance(row.get(name), str | int | float)]
        if missing:
            raise ConfigError(
                f"{place}: for a {judge.kind} judge a row needs prompt, {', '.join(wanted)}; {', '.join(missing)} "
                f"missing, there are {', '.join(map(str, row))}"
            )
        prompt = prompt_of(row, place)
        texts = [str(row[name]) for name in wanted[:-1]]
        check_text(place, *texts)
        items.append(Comparison(str(number), prompt, *texts) if len(texts) > 1 else Answer(str(number), prompt, *texts))
        labels[str(number)] = menu.read(row["label"], place)
    if not items:
        raise ConfigError(f"{path} holds no labelled answers")
    return items, labels


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.suffix != ".csv":
        yield from json_rows(path)
        return
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.DictReader(file), start=1):
                yield f"{path}, row {number}", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
