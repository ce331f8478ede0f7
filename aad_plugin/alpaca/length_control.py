"""AlpacaEval 2's length-controlled win rate of annotations, by the alpaca_eval package, with its coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.instructions import InstructionSet
from aad_plugin.errors import ConfigError
from aad_plugin.judges.statistics.results import share_of


@dataclass(frozen=True, slots=True)
class Controlled:
    """The rate and its standard error in percent, as AlpacaEval reports them, and the regression's weights by column."""

    value: float
    standard_error: float
    weights: Mapping[str, float]


def length_control(annotations: Sequence[Mapping[str, Any]], wanted: InstructionSet, gamed: Path) -> Controlled:
    """Fit AlpacaEval's regression in a process of its own.

    Args:
        annotations: of all 805 instructions, in their order; rows without a preference do not take part in the fit.
        wanted: must be AlpacaEval's whole set: difficulties go by position. gamed: AlpacaEval's df_gamed.csv.
    Raises:
        ConfigError: other instructions, or rows missing. BackendMissing: no alpaca_eval. JudgeUnavailable: it failed.
    """
    from aad_plugin.judges.statistics.official import fit_length_control

    if wanted.kind != "official":
        raise ConfigError(
            f"AlpacaEval's length control goes by the position of its 805 instructions, and this is {wanted.label}: leave "
            "--df-gamed out; there is no length-controlled win rate then"
        )
    if len(annotations) != len(wanted):
        raise ConfigError(f"length control needs a row per instruction, got {len(annotations)} of {len(wanted)}")
    p = [share_of(row["preference"]) for row in annotations]
    lengths = [[len(row[column]) for row in annotations] for column in ("output_2", "output_1")]
    fitted, weights = fit_length_control(p, lengths[0], lengths[1], gamed)
    return Controlled(fitted.value * 100, fitted.standard_error * 100, weights)
