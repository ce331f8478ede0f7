"""Where the files of a submission stand in a checkout of alpaca_eval."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aad_plugin.alpaca.instructions import BASELINE

FORBIDDEN = ("reference_outputs.json", "leaderboard.csv")  # upstream's CI refuses them anywhere under results/


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below a checkout, or below a folder that is to be copied over one."""

    root: Path

    @property
    def results(self) -> Path:
        """A folder per model."""
        return self.root / "results"

    def outputs(self, name: str) -> Path:
        """A model's outputs."""
        return self.results / name / "model_outputs.json"

    def annotations(self, name: str, annotator: str) -> Path:
        """A judge's annotations of a model."""
        return self.results / name / annotator / "annotations.json"

    @property
    def configs(self) -> Path:
        """A folder per model; prompt templates are named relative to it."""
        return self.root / "src/alpaca_eval/models_configs"

    def config(self, name: str) -> Path:
        """A model's configuration."""
        return self.configs / name / "configs.yaml"

    def leaderboard(self, annotator: str) -> Path:
        """A judge's leaderboard."""
        return self.root / "src/alpaca_eval/leaderboards/data_AlpacaEval_2" / f"{annotator}_leaderboard.csv"

    def weights(self, annotator: str, baseline: str = BASELINE) -> Path:
        """Coefficients behind a judge's length-controlled rates."""
        folder = self.root / "src/alpaca_eval/metrics/weights" / annotator / "length_controlled_v1"
        return folder / f"baseline_{baseline}.csv"
