"""The gate file: which metrics must not drop, by how much, and which differences between two runs are accepted.

level: 0.025
allow: [dtype]
gates:
  - {task: aad_xstest, metric: win_rate_vs_greedy}
  - {task: "aad_*", metric: accuracy_aad, smallest_drop: 0.01}
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, nearest

MISMATCHES = ("version", "fewshot", "documents", "prompts", "judge", "method", "dtype")
"""What may differ between two runs so that they cannot be compared."""
_DEFAULTS = (("task", "*"), ("metric", "*"), ("direction", ""))


@dataclass(frozen=True)
class Rule:
    """Metrics that must not drop.

    Args:
        task, metric: names, ``*`` and ``?`` stand for anything.
        direction: "higher" or "lower" is better; "" takes it from lm-eval's results.
        smallest_drop: a drop smaller than this is no regression, however sure; in the metric's unit, at least 0.
    """

    task: str = "*"
    metric: str = "*"
    direction: str = ""
    smallest_drop: float = 0.0

    @property
    def is_pattern(self) -> bool:
        """Whether it names metrics by pattern: those without a direction are then left out."""
        return _is_pattern(self.metric)

    @property
    def names_one(self) -> bool:
        """Whether it names a task or a metric and no pattern: what it names must be there."""
        return not (_is_pattern(self.task) and _is_pattern(self.metric))

    def covers_task(self, task: str) -> bool:
        """Whether the rule is about any metric of a task."""
        return fnmatch.fnmatchcase(task, self.task)

    def covers(self, task: str, metric: str) -> bool:
        """Whether the rule is about a metric of a task."""
        return self.covers_task(task) and fnmatch.fnmatchcase(metric, self.metric)


@dataclass(frozen=True)
class Gate:
    """The file's contents.

    Args:
        level: chance of at least one false alarm over all gated metrics, in (0, 0.5]; one-sided, shared out by Holm.
        allow: of `MISMATCHES`: differences that are accepted. rules: the first that covers a metric counts.
    """

    level: float = 0.025
    allow: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = (Rule(),)

    def rule_for(self, task: str, metric: str) -> Rule | None:
        """The rule about a metric of a task, or None."""
        return next((rule for rule in self.rules if rule.covers(task, metric)), None)


def read_gate(path: Path) -> Gate:
    """Read a gate file; an empty one gates every metric that has a direction.

    Raises:
        ConfigError: no such file, no YAML, an unknown or misplaced entry.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the gate file {path}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    given = _mapping(content or {}, path, ("level", "allow", "gates"))
    level = _number(given.get("level", Gate.level), f"{path}: level")
    if not 0 < level <= 0.5:
        raise ConfigError(f"{path}: level must lie in (0, 0.5], got {level}")
    allow = given.get("allow") or []
    for name in allow if isinstance(allow, list) else [allow]:
        if name not in MISMATCHES:
            raise ConfigError(
                f"{path}: allow is a list of {', '.join(MISMATCHES)}, got {name!r}{nearest(str(name), MISMATCHES)}"
            )
    rules = given.get("gates")
    if rules is not None and (not isinstance(rules, list) or not rules):
        raise ConfigError(f"{path}: gates must be a list of task, metric, direction, smallest_drop, got {rules!r}")
    return Gate(level, tuple(allow), tuple(_rule(rule, path) for rule in rules) if rules else (Rule(),))


def _rule(content: Any, path: Path) -> Rule:
    fields = [field.name for field in dataclasses.fields(Rule)]
    given = _mapping(content, path, fields)
    task, metric, direction = (str(given.get(name) or default) for name, default in _DEFAULTS)
    rule = Rule(task, metric, direction)
    if rule.direction not in ("", "higher", "lower"):
        raise ConfigError(f"{path}: direction must be higher or lower, got {rule.direction!r}")
    drop = _number(given.get("smallest_drop", 0.0), f"{path}: smallest_drop")
    if drop < 0:
        raise ConfigError(f"{path}: smallest_drop must be at least 0, got {drop}")
    return dataclasses.replace(rule, smallest_drop=drop)


def _is_pattern(name: str) -> bool:
    return any(c in name for c in "*?[")


def _mapping(content: Any, path: Path, names: Any) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected entries {', '.join(names)}, got {content!r}")
    for name in content:
        if name not in names:
            raise ConfigError(
                f"{path}: unknown entry {name!r}{nearest(str(name), names)}; there are {', '.join(names)}"
            )
    return content


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{what} must be a number, got {value!r}")
    return float(value)
