"""What is wrong with a file of a submission: plain data, and the step from a finding to an error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aad_plugin.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule.

    Args:
        level: "error" (upstream would or should reject it, or a figure would be wrong) or "warning" (worth a look).
        rule: short name of the rule, e.g. "empty-output". place: file, with row or key where that helps.
        text: what was expected, what was found.
    """

    level: str
    rule: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.level} [{self.rule}] {self.place}: {self.text}"


def refuse_errors(findings: Iterable[Finding]) -> None:
    """Raise ConfigError for the first finding of the level "error"; the message tells how many more there are."""
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ConfigError(f"{errors[0].place}: {errors[0].text}{more}")
