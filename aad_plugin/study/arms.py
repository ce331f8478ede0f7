"""The rows of the study's table: every way of decoding with its rewards and what it cost, read from what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aad_plugin.study.cells import Cell, Decoding, expo_cells, extra_cells, samples_of, table_cells, tuned_cells
from aad_plugin.study.intervals import Interval, mean_interval
from aad_plugin.study.prompts import Prompt
from aad_plugin.study.rewards import Reader
from aad_plugin.study.rows import Answer
from aad_plugin.study.sweeps import best_on_dev
from aad_plugin.texts.thinking import shown_text

REFERENCE, GREEDY, BEST_OF_2, EFT, AAD = "greedy reference", "greedy policy", "best_of_2", "EFT", "AAD"
ORACLE_PICKS = "picker = oracle"


@dataclass(frozen=True)
class Costs:
    """Means over answers and seeds.

    Attributes:
        tokens, characters: of the answer. truncated: share that ran into the token budget.
        policy_passes, reference_passes: rows read per answer, counted; a picker that is a reward model is not in them.
        seconds, cpu_seconds: wall clock and processor time of all threads per answer, a picker that is the pair included.
    """

    tokens: float
    characters: float
    truncated: float
    policy_passes: float
    reference_passes: float
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Arm:
    """One row.

    Attributes:
        name: of the row. prompts: how many of the table's, from its first. seeds: of sampled rows.
        rewards: (S, N) oracle rewards, one line per seed. reward: mean over prompts of the seeds' mean, with its interval.
        note: what a reader must know of the row. paper: the paper's name of its row, empty for the others.
    """

    name: str
    prompts: int
    seeds: tuple[int, ...]
    rewards: np.ndarray = field(repr=False)
    reward: Interval
    costs: Costs
    note: str = ""
    paper: str = ""

    def on_first(self, num: int) -> Arm:
        """Return the row on the first prompts alone; costs stay those of all of them."""
        rewards = self.rewards[:, :num]
        return replace(self, prompts=num, rewards=rewards, reward=_mean(rewards))


def build_arms(reader: Reader) -> tuple[list[Arm], list[str]]:
    """Return the rows in table order, and the names of those whose answers or rewards are not all there yet."""
    plan = reader.plan
    tuned = [*best_on_dev(plan, reader.rows)]
    built = [_once(reader, cell) for cell in table_cells(plan) if not cell.decoding.settings.samples]
    papers = (REFERENCE, GREEDY, AAD, EFT)
    reference, greedy, aad, eft = (replace(arm, paper=name) for arm, name in zip(built, papers, strict=True))
    arms = [reference, greedy, _picked(reader, 1, "implicit", "one sample")]
    arms += [replace(_picked(reader, 2, plan.picker, BEST_OF_2), paper=BEST_OF_2)]
    if plan.picker != plan.oracle:
        arms += [_picked(reader, 2, plan.oracle, f"{BEST_OF_2}, {ORACLE_PICKS}")]
    arms += [eft, aad]
    arms += [_once(reader, cell, note="one model") for cell in expo_cells(plan)]
    arms += [_once(reader, cell, note="chosen on the dev split") for cell in tuned_cells(plan, *tuned)]
    arms += _extras(reader)
    missing = [arm.name for arm in arms if not np.isfinite(arm.rewards).all()]
    return [arm for arm in arms if arm.name not in missing], missing


def _extras(reader: Reader) -> list[Arm]:
    cells = extra_cells(reader.plan)
    drawn = [cell for cell in cells if cell.decoding.draws]
    arms = [_once(reader, cell) for cell in cells if not cell.decoding.draws]
    if drawn:
        ways = [cell.decoding for cell in drawn]
        arms.append(_joined(reader, ways, drawn[0].prompts, reader.plan.seeds, ways[0].name))
    return arms


def _once(reader: Reader, cell: Cell, note: str = "") -> Arm:
    return _joined(reader, [cell.decoding], cell.prompts, (), cell.decoding.name, note)


def _joined(
    reader: Reader,
    ways: Sequence[Decoding],
    prompts: Sequence[Prompt],
    seeds: tuple[int, ...],
    name: str,
    note: str = "",
) -> Arm:
    """A row of one answer per prompt and seed."""
    rewards = np.stack([reader.rewards(way, prompts) for way in ways])
    return Arm(name, len(prompts), seeds, rewards, _mean(rewards), _costs(reader, ways, prompts, 1, picker=False), note)


def _picked(reader: Reader, num: int, picker: str, name: str) -> Arm:
    """A row of the picker's favourite among the first samples of each seed."""
    plan = reader.plan
    ways = [samples_of(plan, seed) for seed in plan.seeds]
    rewards, chosen = [], []
    for way in ways:
        scores = reader.pool(picker, way, plan.table, num)
        best = np.where(np.isnan(scores).any(-1), 0, np.argmax(np.nan_to_num(scores, nan=-np.inf), axis=-1))
        pool = reader.pool(plan.oracle, way, plan.table, num)
        pool[np.isnan(scores).any(-1)] = np.nan
        rewards.append(np.take_along_axis(pool, best[:, None], -1)[:, 0])
        chosen.append(best)
    costs = _costs(reader, ways, plan.table, num, picker=num > 1 and picker == "implicit", chosen=chosen)
    note = "" if num == 1 else f"picker {picker}"
    if num > 1 and picker == plan.oracle and ORACLE_PICKS not in name:
        note = f"{note}; {ORACLE_PICKS}"
    return Arm(name, len(plan.table), plan.seeds, np.stack(rewards), _mean(np.stack(rewards)), costs, note)


def _mean(rewards: np.ndarray) -> Interval:
    return mean_interval(rewards.mean(0))


def _costs(
    reader: Reader,
    ways: Sequence[Decoding],
    prompts: Sequence[Prompt],
    num: int,
    *,
    picker: bool,
    chosen: Sequence[np.ndarray] | None = None,
) -> Costs:
    """Means over ways and prompts: texts of the chosen answer, work of all `num` samples."""

    def text(read: Callable[[Answer], float]) -> float:
        picks = chosen or [np.zeros(len(prompts), dtype=int)] * len(ways)
        found = [
            np.take_along_axis(reader.costs(read, way, prompts, num), pick[:, None], -1)
            for way, pick in zip(ways, picks, strict=True)
        ]
        return float(np.mean(found))

    def work(read: Callable[[Answer], float]) -> float:
        return float(np.mean([reader.costs(read, way, prompts, num).sum(-1) for way in ways]))

    return Costs(
        tokens=text(lambda one: one.tokens),
        characters=text(lambda one: len(shown_text(one.text))),
        truncated=text(lambda one: not one.ended),
        policy_passes=work(lambda one: one.policy_passes),
        reference_passes=work(lambda one: one.reference_passes + picker * one.picker_passes),
        seconds=work(lambda one: one.seconds + picker * one.picker_seconds),
        cpu_seconds=work(lambda one: one.cpu_seconds + (one.picker_cpu_seconds if picker else 0.0)),
    )
