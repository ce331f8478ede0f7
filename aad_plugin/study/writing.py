"""Write what a study found into its folder: tables, plots and study.json. Needs no model and may be run at any time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.study.comparisons import conclusion
from aad_plugin.study.plan import read_plan
from aad_plugin.study.plots import write_study_plots
from aad_plugin.study.results import compute_results
from aad_plugin.study.rows import Rows
from aad_plugin.study.tables import study_tables


def write_study(folder: Path) -> list[Path]:
    """Compute every figure from the stored rows and write it.

    Args:
        folder: of the study, finished or not; a partial one says so.
    Returns:
        the files: table.md (all tables), per table .csv and .tex, plots, study.json.
    Raises:
        ConfigError: the folder holds no study, or does not take the files; the stored rows stay.
    """
    plan, models = read_plan(folder)
    results = compute_results(plan, models, Rows(folder))
    tables = study_tables(results)
    texts = {"table.md": "\n".join(table.markdown() for table in tables)}
    for table in tables:
        texts |= {f"{table.name}.csv": table.csv(), f"{table.name}.tex": table.latex()}
    texts["study.json"] = json.dumps(_finite(results.to_json()), indent=1, ensure_ascii=False) + "\n"
    written = []
    for name, text in texts.items():
        path = folder / name
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"cannot write {path}: {error.strerror or error}; the answers are kept: make room and run "
                f"aad study --output {folder} --tables-only"
            ) from error
        written.append(path)
    return written + write_study_plots(results, folder)


def told(folder: Path) -> str:
    """Return the main table and one sentence of a study that was written, for a terminal.

    Raises:
        ConfigError: the folder holds no study.
    """
    plan, models = read_plan(folder)
    results = compute_results(plan, models, Rows(folder))
    main = next((table for table in study_tables(results) if table.name == "table"), None)
    shown = f"{main.plain(5)}\n\n" if main else ""
    return shown + conclusion(results.arms)


def _finite(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON cannot say."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
