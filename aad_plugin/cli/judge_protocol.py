"""`aad judge --protocol`: upstream's files and figures beside our own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from aad_plugin.errors import ConfigError


def check_protocol(
    protocol: str, baseline: str, anchors: Sequence[str], specs: Sequence[str], judges: int, style: str
) -> str:
    """The template a protocol asks by.

    Raises:
        ConfigError: an unknown protocol, or sides that it does not have.
    """
    from aad_plugin.judges.protocols.running import kind_of, template_of

    template = template_of(protocol)
    if style and not protocol.startswith("arena-hard"):
        raise ConfigError(f"style control is Arena-Hard's, {protocol} has none: leave --style out")
    if judges > 1:
        raise ConfigError("a protocol has one judge: pass --judge once")
    if specs and not protocol.startswith("arena-hard"):
        raise ConfigError(f"{protocol} is run for one model: pass --candidate, and --systems for Arena-Hard only")
    if specs and len(anchors) != 1:
        raise ConfigError("Arena-Hard has one baseline: name it with --anchor")
    if not specs and bool(baseline) != (kind_of(protocol) == "pairwise"):
        raise ConfigError(
            f"{protocol} "
            + ("grades one model's answers: leave --baseline out" if baseline else "needs --baseline FILE")
        )
    return template


def check_labels(protocol: str, judge: Any) -> None:
    """Refuse a judge whose verdicts the protocol cannot count, before it is asked.

    Raises:
        ConfigError: Arena-Hard without its five labels, MT-Bench without grades, or without both orders.
    """
    from aad_plugin.judges.protocols.arena_hard import LABELS
    from aad_plugin.judges.sitting.judge import completed

    judge = completed(judge)
    if protocol == "mt-bench-single" and not judge.grades:
        raise ConfigError(
            f"{protocol} counts grades, and {judge.name} gives none: pass a judge whose --template is grade (the default "
            "here)"
        )
    if protocol == "mt-bench-pairwise" and not judge.both_orders:
        raise ConfigError(
            f"{protocol} counts a judge's verdicts in both orders, and {judge.name} asks in one alone: pass "
            "a judge that is asked in both, such as a chat model"
        )
    choices = getattr(getattr(judge, "template", None), "choices", ())
    if protocol.startswith("arena-hard") and set(choices) != set(LABELS.values()):
        raise ConfigError(
            f"Arena-Hard counts the labels {', '.join(LABELS.values())}, and --template asks for {', '.join(choices)}: "
            "leave it out"
        )


def finish_protocol(
    protocol: str, output: Path, meetings: Sequence[Any], verdicts: Sequence[Any], judge: str, style: str
) -> None:
    """Write the protocol's files and print its figures."""
    from aad_plugin.judges.leagues.style import chosen_features
    from aad_plugin.judges.protocols.running import write_protocol

    features = chosen_features(style) if style else ()
    first = meetings[0]
    figures = write_protocol(
        protocol, output, meetings, verdicts, model=first.a, baseline=first.b, judge=judge, style=features
    )
    typer.echo(f"{protocol}, files for upstream's scorer in {output / protocol}:")
    scores = figures["scores"]
    for one in scores if isinstance(scores, list) else [{"model": name, **row} for name, row in scores.items()]:
        shown = (f"{name} {_shown(value)}" for name, value in one.items() if name != "model")
        typer.echo(f"  {one['model']}: {', '.join(shown)}")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list) else str(value)


def items_of(protocol: str, items: list[Any]) -> list[Any]:
    """What the protocol's judge is asked about."""
    from aad_plugin.judges.protocols import running

    return running.items_of(protocol, items)


def to_count(protocol: str | None, verdicts: list[Any]) -> list[Any]:
    """Verdicts as they are counted: those of MT-Bench's two turns belong to one question."""
    from aad_plugin.judges.protocols.mt_bench import by_question

    return by_question(verdicts) if protocol and protocol.startswith("mt-bench") else verdicts


def as_meetings(items: Sequence[Any], candidate: str, baseline: str) -> list[Any]:
    """Items of two files (or one) as meetings of the systems that the files name."""
    from aad_plugin.judges.leagues.battles import system_name
    from aad_plugin.judges.protocols.running import meeting_of

    a, b = system_name(candidate), system_name(baseline) if baseline else ""
    if a == b:
        raise ConfigError(
            f"candidate and baseline are both named {a!r}, and upstream's files go by name: name one as in "
            f"--candidate {a}-2={candidate.partition('=')[2] or candidate}"
        )
    return [meeting_of(item, a, b) for item in items]
