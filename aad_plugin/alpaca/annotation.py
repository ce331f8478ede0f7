"""Annotate outputs: a judge of this package, or alpaca_eval's own annotator, into ``annotations.json``.

Whatever the judge said stands in the folder's store the moment it arrives; a run that ends early asks, the next time,
only what is left.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.annotations import OFFICIAL_ANNOTATOR, read_annotations
from aad_plugin.alpaca.evaluator_configs import EVALUATORS
from aad_plugin.alpaca.findings import refuse_errors
from aad_plugin.alpaca.instructions import Instruction, InstructionSet, text_mark
from aad_plugin.alpaca.outputs import check_outputs
from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import write_text
from aad_plugin.judges import Comparison, Judge, Summary, Verdict, compare, summarize


@dataclass(frozen=True)
class Pairs:
    """Outputs beside the reference's outputs, row by row, in the order of the instructions."""

    outputs: Sequence[Mapping[str, str]]
    references: Sequence[Mapping[str, str]]
    wanted: InstructionSet

    @property
    def name(self) -> str:
        """The model's."""
        return self.outputs[0]["generator"]


def pair_up(
    outputs: Sequence[Mapping[str, Any]], place: str, reference: InstructionSet, partial: bool = False
) -> Pairs:
    """Hold outputs against the reference's instructions.

    Args:
        outputs: rows of ``model_outputs.json``, read from `place`. reference: as loaded, with its outputs.
        partial: judge the instructions that are answered, where not all are.
    Raises:
        ConfigError: the reference has no outputs; the first broken rule of the outputs; rows missing without `partial`.
    """
    if not reference.references:
        raise ConfigError(
            f"{reference.place} holds instructions but not the reference's outputs: every row needs output and generator"
        )
    wanted, rows = reference, list(reference.references)
    answered = {text_mark(row["instruction"]) for row in outputs if isinstance(row.get("instruction"), str)}
    kept = [number for number, row in enumerate(reference.rows) if row.mark in answered]
    if partial and kept and len(kept) < len(reference):
        kind = "other" if reference.kind == "other" else "partial"
        wanted, rows = _part(reference, kept, kind), [rows[number] for number in kept]
    elif not partial and reference.kind == "official" and len(kept) < len(reference):
        raise ConfigError(
            f"{place} answers {len(kept)} of AlpacaEval's {len(reference)} instructions; a result on a part of them is no "
            "AlpacaEval result: generate the others, or pass --partial to have it labelled so"
        )
    if not outputs:
        raise ConfigError(f"{place} holds no outputs")
    refuse_errors(finding for finding in check_outputs(outputs, wanted, place) if finding.rule != "constant-output")
    return Pairs(outputs, rows, wanted)


def annotate(pairs: Pairs, judge: Judge, folder: Path, **how: Any) -> list[Verdict]:
    """Judge all pairs and, once all were asked, write ``annotations.json``; blocks on the judge.

    Args:
        folder: for the store and the annotations of one model by one judge. how: as for `compare` (transport, max_cost).
    Raises:
        ConfigError: the judge bears the official judge's name, or the folder holds another model's annotations.
        JudgeUnavailable: the judge cannot be reached; what was judged before is kept, and the same call goes on.
    """
    _refuse_official(judge)
    path = folder / "annotations.json"
    if path.exists() and (held := read_annotations(path)[0]["generator_2"]) != pairs.name:
        raise ConfigError(f"{folder} holds annotations of {held!r}, not of {pairs.name!r}; pass another --output")
    items = [
        Comparison(str(number), row["instruction"], row["output"], reference["output"])
        for number, (row, reference) in enumerate(zip(pairs.outputs, pairs.references, strict=True))
    ]
    verdicts = compare(items, judge, folder, **how)
    if any(verdict.reason == "not_asked" for verdict in verdicts):
        return verdicts
    name = annotator_name(judge)
    rows = [
        {
            "instruction": row["instruction"],
            "output_1": reference["output"],
            "generator_1": reference["generator"],
            "dataset": row["dataset"],
            "output_2": row["output"],
            "generator_2": row["generator"],
            "annotator": name,
            "preference": None if verdict.p is None else 1 + verdict.p,
            "price_per_example": verdict.cost,
            "time_per_example": verdict.seconds,
            "raw_completion": _said(verdict),
        }
        for row, reference, verdict in zip(pairs.outputs, pairs.references, verdicts, strict=True)
    ]
    write_text(path, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    return verdicts


def annotator_name(judge: Judge) -> str:
    """What annotations call a judge: alpaca_eval's own name for its annotators as it runs them, else one of ours.

    Read after the judge has judged: ours ends in 8 hex digits of everything that shapes its verdicts.
    """
    if judge.is_seeded:
        return judge.name.partition(":")[2]
    slug = re.sub(r"[^A-Za-z0-9.-]+", "_", judge.name).strip("_.")[-60:]
    return f"aad_{slug}_{judge.fingerprint[:8]}"


def evaluator_folder(name: str) -> str:
    """The folder of an evaluator configuration that comes with this package, by its name; other names unchanged."""
    folder = EVALUATORS / name
    return str(folder) if (folder / "configs.yaml").is_file() else name


def summary_of(pairs: Pairs, verdicts: Sequence[Verdict], **data: Any) -> Summary:
    """Figures of the verdicts; a part of AlpacaEval gets no length-controlled rate."""
    summary = summarize(verdicts, **data)
    if pairs.wanted.kind != "partial":
        return summary
    none, why = math.nan, f"none: this is {pairs.wanted.label}"
    return dataclasses.replace(summary, lc_win_rate=none, lc_standard_error=none, lc_ci95=(none, none), lc_method=why)


def _part(reference: InstructionSet, kept: Sequence[int], kind: str) -> InstructionSet:
    rows: tuple[Instruction, ...] = tuple(reference.rows[number] for number in kept)
    return InstructionSet(rows, kind, reference.place, tuple(reference.references[number] for number in kept))


def _refuse_official(judge: Judge) -> None:
    if judge.name == f"alpaca_eval:{OFFICIAL_ANNOTATOR}" and judge.is_seeded:
        raise ConfigError(
            f"{OFFICIAL_ANNOTATOR} was AlpacaEval 2's official judge; its provider has shut gpt-4-1106-preview down, so "
            "whatever answers under that name now is another judge. Pass another --annotator (aad alpaca-eval evaluators "
            "lists those that come with this package), or --judge"
        )


def _said(verdict: Verdict) -> Any:
    """What stands in place of a judge's raw reply: both orders, or why there is no preference; replies are in the store."""
    said: dict[str, Any] = {"reason": verdict.reason, "detail": verdict.detail} if verdict.reason else {}
    if verdict.orders:
        said["p_better_by_order"] = list(verdict.orders)
    return said or None
