"""The cells of a study: one way of decoding on some prompts, with some sample numbers.

Every figure of the tables comes from answers named here; cells that share answers (the dev split's greedy answers, the
curve's first samples) share them by key and nothing is decoded twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aad_plugin.settings import DecodingSettings
from aad_plugin.study.plan import StudyPlan
from aad_plugin.study.prompts import Prompt, prompt_mark
from aad_plugin.study.rows import AnswerKey
from aad_plugin.texts.messages import digest


@dataclass(frozen=True)
class Decoding:
    """One way of decoding.

    Attributes:
        name: for people. settings: strategy and its parameters.
        reference: "pair", or "wrong" for the wrong reference. num_beams: 1 is no search.
        draws: tokens of AAD are drawn from its scores instead of taking the best.
    """

    name: str
    settings: DecodingSettings
    reference: str = "pair"
    num_beams: int = 1
    draws: bool = False

    def describe(self) -> dict[str, Any]:
        """Return what decides the answers, JSON-able."""
        noise = {name: getattr(self.settings, name) for name in ("temperature", "top_p", "seed")} if self.draws else {}
        others = {"reference": self.reference, "num_beams": self.num_beams, "draws": self.draws}
        return {**self.settings.relevant(), **noise, **others}

    @property
    def mark(self) -> str:
        """16 hex digits of :meth:`describe`."""
        return digest(self.describe())[:16]


@dataclass(frozen=True)
class Cell:
    """A decoding on prompts, with the sample numbers ``first`` to ``stop`` − 1."""

    decoding: Decoding
    prompts: tuple[Prompt, ...]
    first: int = 0
    stop: int = 1

    def keys(self) -> list[AnswerKey]:
        """Return the key of every answer, prompt by prompt."""
        return [
            (self.decoding.mark, prompt_mark(prompt), number)
            for prompt in self.prompts
            for number in range(self.first, self.stop)
        ]


def table_cells(plan: StudyPlan) -> list[Cell]:
    """The paper's five rows; best_of_2 as the two samples of each seed."""
    ways = [_way(plan, "reference"), _way(plan, "greedy"), _way(plan, "aad"), _way(plan, "eft")]
    cells = [Cell(way, plan.table) for way in ways]
    return cells + [Cell(samples_of(plan, seed), plan.table, 0, 2) for seed in plan.seeds]


def sweep_cells(plan: StudyPlan) -> list[Cell]:
    """Greedy (alpha = 1, EFT scale 1), the reference (EFT scale 0), and the grids, on the dev split."""
    if not plan.dev:
        return []
    ways = [_way(plan, "greedy"), _way(plan, "reference")]
    ways += [_way(plan, "aad", alpha=alpha) for alpha in plan.alphas if alpha != 1]
    ways += [_way(plan, "eft", eft_scale=scale) for scale in plan.eft_scales if scale not in (0, 1)]
    if plan.expo_scale is not None:
        ways += [_way(plan, "expo", expo_scale=scale) for scale in plan.expo_scales if scale]
    return [Cell(way, plan.dev) for way in ways]


def expo_cells(plan: StudyPlan) -> list[Cell]:
    """One model of extrapolated weights, the rival at greedy's price."""
    return [] if plan.expo_scale is None else [Cell(_way(plan, "expo"), plan.table)]


def curve_cell(plan: StudyPlan) -> list[Cell]:
    """What the curve's pool lacks after the table: the first seed's samples from the third on."""
    if not plan.num_curve or plan.samples <= 2:
        return []
    return [Cell(samples_of(plan, plan.seeds[0]), plan.table[: plan.num_curve], 2, plan.samples)]


def extra_cells(plan: StudyPlan) -> list[Cell]:
    """AAD against a wrong reference, AAD drawn from its scores, AAD with beams, the policy under guides."""
    prompts = plan.table[: plan.num_extra]
    if not prompts:
        return []
    aad = _way(plan, "aad").settings
    ways = [Decoding("AAD, wrong reference", aad, reference="wrong")] if plan.wrong_reference else []
    # The plausible set is AAD's nucleus; none is cut from it a second time.
    ways += [
        Decoding("AAD, sampled", aad.override(temperature=1.0, top_p=1.0, seed=seed), draws=True) for seed in plan.seeds
    ]
    ways += [Decoding(f"AAD, {plan.num_beams} beams", aad, num_beams=plan.num_beams)] if plan.num_beams > 1 else []
    if plan.guide_scale is not None:
        guided = DecodingSettings(strategy="guided", alpha=plan.alpha, guide_scale=plan.guide_scale)
        scales = guided.guide_scale if isinstance(guided.guide_scale, tuple) else (guided.guide_scale,)
        ways += [Decoding(f"guided, scale {'+'.join(f'{scale:g}' for scale in scales)}", guided)]
    return [Cell(way, prompts) for way in ways]


def tuned_cells(plan: StudyPlan, alpha: float | None, eft_scale: float | None, expo_scale: float | None) -> list[Cell]:
    """AAD, EFT and ExPO with what was best on the dev split, where that is not what the table has already."""
    ways = []
    if alpha is not None and alpha not in (plan.alpha, 1.0):
        ways.append(_way(plan, "aad", alpha=alpha))
    if eft_scale is not None and eft_scale not in (plan.eft_scale, 0.0, 1.0):
        ways.append(_way(plan, "eft", eft_scale=eft_scale))
    if expo_scale is not None and expo_scale not in (plan.expo_scale, 0.0):
        ways.append(_way(plan, "expo", expo_scale=expo_scale))
    return [Cell(way, plan.table) for way in ways]


def samples_of(plan: StudyPlan, seed: int) -> Decoding:
    """The policy's nucleus samples under one seed."""
    settings = DecodingSettings(strategy="sample", temperature=plan.temperature, top_p=plan.top_p, seed=seed)
    return Decoding(f"samples, seed {seed}", settings)


_NAMES = {"reference": "greedy reference", "greedy": "greedy policy", "aad": "AAD", "eft": "EFT", "expo": "ExPO"}


def _way(plan: StudyPlan, strategy: str, **changes: float) -> Decoding:
    settings = DecodingSettings(alpha=plan.alpha, eft_scale=plan.eft_scale)
    settings = settings.override(strategy=strategy, **{"expo_scale": plan.expo_scale, **changes})
    strength = {"aad": f"alpha {settings.alpha:g}", "eft": f"scale {settings.eft_scale:g}"}
    strength["expo"] = f"scale {settings.expo_scale:g}"
    shown = f", {strength[strategy]}" if strategy in strength else ""
    return Decoding(_NAMES[strategy] + shown, settings)
