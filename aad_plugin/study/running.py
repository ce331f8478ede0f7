"""Run a study's plan: decode what is missing, score it, batch by batch. Everything found goes to `rows.jsonl` at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from aad_plugin.study.cells import Cell, curve_cell, expo_cells, extra_cells, sweep_cells, table_cells, tuned_cells
from aad_plugin.study.decoding import Batch, Decoder
from aad_plugin.study.pair_table import chosen_cells, pair_cells
from aad_plugin.study.plan import StudyPlan
from aad_plugin.study.prompts import prompt_mark
from aad_plugin.study.rows import Rows
from aad_plugin.study.scoring import Scorer
from aad_plugin.study.sweeps import best_on_dev


def run_study(
    folder: Path, plan: StudyPlan, decoder: Decoder, scorers: Sequence[Scorer], *, progress: bool = True
) -> Rows:
    """Decode and score every cell of the plan; goes on where an earlier run of the same plan stopped.

    Args:
        folder: holds rows.jsonl and is locked meanwhile.
    Returns:
        all answers and scores.
    Raises:
        StudyStopped: the disk is full or a reward is not finite; what was found is kept.
        ConfigError: a prompt leaves no room in the context; another study runs in the folder.
    """
    decoder.check([*plan.table, *plan.dev])
    with Rows(folder) as rows:
        run = _Run(plan, decoder, scorers, rows, progress)
        run.work([*table_cells(plan), *expo_cells(plan), *sweep_cells(plan), *curve_cell(plan), *extra_cells(plan)])
        run.work(tuned_cells(plan, *best_on_dev(plan, rows)))
    return rows


def run_pair(
    folder: Path, plan: StudyPlan, decoder: Decoder, scorers: Sequence[Scorer], *, progress: bool = True
) -> Rows:
    """As :func:`run_study`, of what a table of several pairs asks of each: greedy, AAD, AAD's alphas on the dev split."""
    decoder.check([*plan.table, *plan.dev])
    with Rows(folder) as rows:
        run = _Run(plan, decoder, scorers, rows, progress)
        run.work(pair_cells(plan))
        run.work(chosen_cells(plan, rows))
    return rows


class _Run:
    def __init__(
        self, plan: StudyPlan, decoder: Decoder, scorers: Sequence[Scorer], rows: Rows, progress: bool
    ) -> None:
        self.decoder = decoder
        self.scorers = scorers
        self.rows = rows
        self.progress = progress
        self.prompts = {prompt_mark(prompt): prompt for prompt in (*plan.table, *plan.dev)}

    def work(self, cells: Iterable[Cell]) -> None:
        """Decode and score cells, one batch after the other."""
        batches = [batch for cell in cells for batch in self.decoder.batches(cell)]
        num = sum(len(batch.keys()) for batch in batches)
        with tqdm(total=num, unit="answer", disable=not self.progress, smoothing=0.02) as bar:
            for batch in batches:
                bar.set_description(batch.decoding.name)
                self._batch(batch)
                bar.update(len(batch.keys()))

    def _batch(self, batch: Batch) -> None:
        keys = batch.keys()
        if not self.rows.has(keys):
            decoded = self.decoder.decode(batch)
            self.rows.add_answers(batch.decoding.mark, batch.decoding.name, decoded.entries, decoded.cost)
        for scorer in self.scorers:
            scorer.score(self.prompts, keys, self.rows)
