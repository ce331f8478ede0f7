"""What a study is asked to do, frozen before the first answer: prompts, settings, grids and seeds.

Kept as plan.json; a later run with the same words goes on, another one is refused.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import replacing
from aad_plugin.settings import DecodingSettings
from aad_plugin.study.prompts import Prompt

FILE = "plan.json"
_SHOWN = 60
TOKENIZER = "tokenizer"
_NEWER = (TOKENIZER, "end_tokens")  # marks among the models that plans of before 28 November 2026 lack
_PLACES = ("parts",)  # where the models lie: a moved folder is the same pair, its weights are marked


@dataclass(frozen=True)
class StudyPlan:
    """Everything that decides a study's answers, apart from the weights.

    Attributes:
        table, dev: disjoint prompts. num_curve, num_extra: how many of the table's, from its first, the best_of_N curve
            and the rows beside the paper's five take.
        samples: drawn per prompt of the curve. seeds: of sampled rows, at least 3; the first one draws the curve's pool.
        alpha, eft_scale: of the table's rows. alphas, eft_scales: tried on the dev split.
        expo_scale: of ExPO's row, None leaves it out, as in studies of before. expo_scales: likewise tried.
        temperature, top_p: of the policy's samples. num_beams: of AAD's beam search; 0 leaves that row out.
        guide_scale: of one more row, "guided", for a pair with guides; None leaves it out.
        picker: ``implicit`` or ``reward:<model>``. oracle: ``reward:<model>``. wrong_reference: a checkpoint, or None.
        max_new_tokens: budget per answer. batch_size: rows decoded together; moves 16-bit answers.
    """

    table: tuple[Prompt, ...]
    dev: tuple[Prompt, ...]
    oracle: str
    num_curve: int = 40
    num_extra: int = 200
    samples: int = 50
    seeds: tuple[int, ...] = (1, 2, 3)
    alpha: float = 0.1
    eft_scale: float = 1.5
    alphas: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.5)
    eft_scales: tuple[float, ...] = (1.25, 1.5, 2.0, 4.0, 8.0)
    expo_scale: float | None = None
    expo_scales: tuple[float, ...] = ()
    temperature: float = 1.0
    top_p: float = 0.95
    num_beams: int = 4
    guide_scale: float | tuple[float, ...] | None = None
    picker: str = "implicit"
    wrong_reference: str | None = None
    max_new_tokens: int = 256
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("num_curve", "num_extra", "num_beams"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("samples", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if len(self.table) < 2:
            raise ConfigError(f"the table needs at least 2 prompts, got {len(self.table)}")
        if max(self.num_curve, self.num_extra) > len(self.table):
            raise ConfigError(
                f"num_curve and num_extra take prompts of the table, which has {len(self.table)}; got {self.num_curve} "
                f"and {self.num_extra}"
            )
        if self.num_curve and self.samples < 2:
            raise ConfigError(f"the best_of_N curve needs at least 2 samples per prompt, got {self.samples}")
        if len(set(self.seeds)) < 3:
            raise ConfigError(f"sampled rows need at least 3 different seeds, got {list(self.seeds)}")
        if not self.oracle.startswith("reward:") or self.oracle == "reward:":
            raise ConfigError(f"oracle must be reward:<model> (a folder, a hub id or demo), got {self.oracle!r}")
        self._check_settings()

    def _check_settings(self) -> None:
        """Every value of the grids goes through the settings' own ranges."""
        common: dict[str, Any] = {"picker": self.picker, "temperature": self.temperature, "top_p": self.top_p}
        for alpha in (self.alpha, *self.alphas):
            DecodingSettings(alpha=alpha, **common)
        for scale in (self.eft_scale, *self.eft_scales):
            DecodingSettings(eft_scale=scale, **common)
        for scale in (*([] if self.expo_scale is None else [self.expo_scale]), *self.expo_scales):
            DecodingSettings(expo_scale=scale)
        for seed in self.seeds:
            DecodingSettings(seed=seed)
        if self.guide_scale is not None:
            DecodingSettings(guide_scale=self.guide_scale)

    @property
    def scorers(self) -> tuple[str, ...]:
        """The reward models the study asks: the oracle, and the picker where it is another one."""
        return tuple(dict.fromkeys([self.oracle, *([self.picker] if self.picker != "implicit" else [])]))


def keep_plan(folder: Path, plan: StudyPlan, models: dict[str, Any]) -> None:
    """Write the plan, or check that the folder holds the very same.

    Args:
        models: account of pair, oracle, picker and wrong reference.
    Raises:
        ConfigError: the folder holds another study, or cannot be written.
    """
    mine = json.loads(json.dumps({"plan": dataclasses.asdict(plan), "models": models}, default=str))
    path = folder / FILE
    if path.is_file():
        there = _read(path)
        for part in ("plan", "models"):
            for name in dict.fromkeys([*there[part], *mine[part]]):
                old, new = there[part].get(name), mine[part].get(name)
                if name in _PLACES or (name in _NEWER and TOKENIZER not in there[part]):
                    continue
                if old != new:
                    raise ConfigError(
                        f"{folder} holds another study: {name} is {_short(old)} there, {_short(new)} here; give the same "
                        "settings to go on with it, or pass another --output"
                    )
        return
    try:
        with replacing(path) as half:
            half.write_text(json.dumps(mine, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; pass another --output") from error


def read_plan(folder: Path) -> tuple[StudyPlan, dict[str, Any]]:
    """Return the plan a folder holds and the account of its models.

    Raises:
        ConfigError: there is none.
    """
    path = folder / FILE
    if not path.is_file():
        raise ConfigError(f"{folder} holds no study: expected {FILE} there (aad study --output {folder} … makes one)")
    content = _read(path)
    plan: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content["plan"].items()
    }
    return StudyPlan(**plan), content["models"]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"plan": dict(content["plan"]), "models": dict(content["models"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a study's plan ({error}); pass another --output") from error


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
