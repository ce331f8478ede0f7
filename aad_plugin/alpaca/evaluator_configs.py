"""The evaluator configurations that come with this package: what there is, and what each says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EVALUATORS = Path(__file__).parent / "evaluators"


@dataclass(frozen=True, slots=True)
class Configuration:
    """One folder. about: the comment at the top of its ``configs.yaml``."""

    name: str
    folder: Path
    about: str


def configurations() -> list[Configuration]:
    """All of them, by name."""
    found = []
    for path in sorted(EVALUATORS.glob("*/configs.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        about = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
        found.append(Configuration(path.parent.name, path.parent, "\n    ".join(about)))
    return found
