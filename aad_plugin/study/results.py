"""Everything a study's rows say, computed once: what tables, plots and study.json are drawn from. Needs no model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from aad_plugin.study.arms import Arm, build_arms
from aad_plugin.study.best_of_n import CurvePoint, curve
from aad_plugin.study.comparisons import Comparison, compare_arms, order_lines
from aad_plugin.study.plan import StudyPlan
from aad_plugin.study.rewards import Reader
from aad_plugin.study.rows import Rows
from aad_plugin.study.sweeps import SWEPT, Point, sweep


@dataclass(frozen=True)
class Results:
    """A study's figures.

    Attributes:
        arms: rows of the table. missing: names of what is not there yet; empty once the study has ended.
        comparisons, order: of the rows. alphas, eft_scales, expo_scales: sweeps on the dev split. curve: best_of_N.
        on_curve: the table's rows on the curve's prompts, to hold the curve against.
        seconds, cpu_seconds, score_seconds: what decoding and scoring took in all.
    """

    plan: StudyPlan
    models: dict[str, Any]
    arms: list[Arm]
    missing: list[str]
    comparisons: list[Comparison]
    order: list[str]
    alphas: list[Point]
    eft_scales: list[Point]
    expo_scales: list[Point]
    curve: list[CurvePoint]
    on_curve: list[Arm]
    seconds: float
    cpu_seconds: float
    score_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return every figure; prompts stand in plan.json."""
        plan = dataclasses.asdict(self.plan)
        plan |= {"table": len(plan["table"]), "dev": len(plan["dev"])}
        return {
            "complete": not self.missing,
            "missing": self.missing,
            "plan": plan,
            "models": self.models,
            "rows": [_arm(arm) for arm in self.arms],
            "order": self.order,
            "comparisons": [dataclasses.asdict(one) for one in self.comparisons],
            "alphas": [dataclasses.asdict(point) for point in self.alphas],
            "eft_scales": [dataclasses.asdict(point) for point in self.eft_scales],
            "expo_scales": [dataclasses.asdict(point) for point in self.expo_scales],
            "best_of_n": [dataclasses.asdict(point) for point in self.curve],
            "rows_on_the_curves_prompts": [_arm(arm) for arm in self.on_curve],
            "seconds": {"decoding": self.seconds, "decoding_cpu": self.cpu_seconds, "scoring": self.score_seconds},
        }


def compute_results(plan: StudyPlan, models: dict[str, Any], rows: Rows) -> Results:
    """Compute every figure from what the rows hold; what is incomplete is left out and named."""
    reader = Reader(plan, rows)
    arms, missing = build_arms(reader)
    points = {strategy: sweep(reader, strategy) for strategy in SWEPT}
    if plan.dev and sum(map(len, points.values())) < _num_points(plan):
        missing.append("sweeps")
    found = curve(reader)
    if plan.num_curve and not found:
        missing.append("best_of_N curve")
    answers = rows.answers.values()
    return Results(
        plan=plan,
        models=models,
        arms=arms,
        missing=missing,
        comparisons=compare_arms(arms),
        order=order_lines(arms),
        alphas=points["aad"],
        eft_scales=points["eft"],
        expo_scales=points["expo"] if plan.expo_scales else [],
        curve=found,
        on_curve=[arm.on_first(plan.num_curve) for arm in arms if arm.prompts >= plan.num_curve] if found else [],
        seconds=sum(one.seconds + one.picker_seconds for one in answers),
        cpu_seconds=sum(one.cpu_seconds + (one.picker_cpu_seconds if one.picker_passes else 0.0) for one in answers),
        score_seconds=sum(rows.score_seconds.values()),
    )


def _num_points(plan: StudyPlan) -> int:
    expo = plan.expo_scales if plan.expo_scale is not None else ()
    return len({1.0, *plan.alphas}) + len({0.0, 1.0, *plan.eft_scales}) + len({0.0, *expo})


def _arm(arm: Arm) -> dict[str, Any]:
    per_seed = np.mean(arm.rewards, axis=1).tolist()
    return {
        "row": arm.name, "note": arm.note, "n": arm.prompts, "seeds": list(arm.seeds),
        "reward": dataclasses.asdict(arm.reward), "reward_per_seed": per_seed, **dataclasses.asdict(arm.costs),
    }  # fmt: skip
