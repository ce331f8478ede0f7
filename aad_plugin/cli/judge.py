"""`aad judge`: judge answers that lie in files, or rebuild the summary of what was judged before."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import typer

from aad_plugin.cli import judge_files as read
from aad_plugin.cli.judge_call import Call, Terms
from aad_plugin.cli.judge_cascade import judge_by_cascade
from aad_plugin.cli.judge_options import JudgeOptions, cleaner, takes_judge_options
from aad_plugin.cli.judge_protocol import as_meetings, check_labels, check_protocol, finish_protocol, items_of, to_count
from aad_plugin.cli.judge_running import Running
from aad_plugin.cli.judge_systems import finish_systems, meetings_of
from aad_plugin.cli.option_group import refuse_unread, takes
from aad_plugin.errors import ConfigError
from aad_plugin.texts.cleaning import without_passwords


@takes(call=Call, terms=Terms)
@takes_judge_options()
def judge(call: Call, asked: JudgeOptions, terms: Terms) -> None:
    """Judge answers, pairwise or one by one, and say how sure the win rate is.

    Exit code 0: judged. 1: stopped by an error (what was judged before is kept). 2: too many items are unjudged. 4: the
    judge contradicts itself beyond its limits.
    """
    if terms.from_file is not None:
        call.check_from(terms)
        if not call.judges:
            refuse_unread(asked, [field.name for field in fields(asked)], "aad judge --from without --judge")
        _count_again(call, asked, terms)
        return
    call.check(terms)
    judges, dear = _load(call, asked)
    running = Running(judges, call.output, terms.seed, terms.repeats, terms.challenge, call.jury, terms.sitting)
    items, meetings = _items(call, terms)
    replace(running, judges=[*judges, *dear]).check(items)
    if terms.estimate:
        counted = to_count(call.protocol, read.unjudged(items, judges[0])) if call.protocol else None
        prompts = len({verdict.prompt for verdict in counted}) if counted else running.num_prompts(items)
        running.print_estimates(items, prompts)
        if dear:
            typer.echo(f"and on {call.dear_share:.0%} of the items:")
            replace(running, judges=dear).print_estimates(items, prompts, call.dear_share)
        return
    if call.output is None:
        raise ConfigError("pass --output DIR: what is judged is kept there")
    if dear:
        figures = judge_by_cascade(items, judges, dear[0], call.dear_share, terms.seed, call.output, terms.sitting)
        _check_unjudged(figures["n"], figures["n_unjudged"], {}, terms.max_unjudged)
        return
    verdicts, summary = _judge(call, terms, running, items, meetings)
    if call.protocol:
        finish_protocol(call.protocol, call.output, meetings, verdicts, judges[0].name, call.style)
    _check_share(summary, terms.max_unjudged)
    _check_limits(verdicts, judges)


def _count_again(call: Call, asked: JudgeOptions, terms: Terms) -> None:
    """Rebuild the summary of what was judged before."""
    assert terms.from_file is not None
    if not call.candidate:
        candidate, baseline = read.sides_of(terms.from_file)
        call = replace(call, candidate=candidate, baseline=baseline)
    verdicts = read.verdicts_of(terms.from_file)
    judges = asked.load(call.judges) if call.judges else []
    data, clean = read.data_of(verdicts, **terms.data), cleaner(judges)
    _check_share(_finish(call, terms, verdicts, data, lambda text: clean(without_passwords(text))), terms.max_unjudged)
    _check_limits(verdicts, judges)


def _load(call: Call, asked: JudgeOptions) -> tuple[list[Any], list[Any]]:
    """The judges, and the dear one of a cascade; a protocol says how they are asked."""
    from aad_plugin.judges.kinds.specs import accepted_options

    judges = call.judges or []
    if call.protocol:
        told = check_protocol(call.protocol, call.baseline, call.anchors or [], call.specs, len(judges), call.style)
        if any("template" in accepted_options(spec) for spec in judges):  # a reward model reads none
            asked = asked.but(template=asked.template or told)
    loaded = asked.load([*judges, *([call.cascade] if call.cascade else [])])
    if call.protocol:
        check_labels(call.protocol, loaded[0])
    return loaded[: len(judges)], loaded[len(judges) :]


def _items(call: Call, terms: Terms) -> tuple[list[Any], list[Any]]:
    """What is judged, and who meets whom in it where that is counted."""
    matching = terms.prompt_field, terms.allow_unmatched
    meetings = meetings_of(call.specs, call.anchors or [], *matching) if call.specs else []
    items = [one.comparison for one in meetings] or read.items_of(call.candidate, call.baseline, *matching)
    if call.protocol:
        items = items_of(call.protocol, items)
        meetings = meetings or as_meetings(items, call.candidate, call.baseline)
    return items, meetings


def _judge(call: Call, terms: Terms, running: Running, items: list[Any], meetings: list[Any]) -> tuple[list[Any], Any]:
    """Judge, write what was found and return it: verdicts and their summary."""
    assert call.output is not None
    clean = cleaner(running.judges)
    if call.specs:
        verdicts = running.verdicts(items)
        summary = finish_systems(
            meetings, verdicts, call.output, clean, style=call.style, sides=call.sides, elo=call.elo, draws=call.draws,
            seed=terms.seed, anchor=call.anchors[0] if call.anchors else None,
        )  # fmt: skip
        return verdicts, summary
    first = running.judges[0]
    data = read.data_of(read.unjudged(items, first), judge=first, items=items, **terms.data)
    finish = partial(_finish, call, terms, data=data, clean=clean)
    verdicts = running.verdicts_or_kept(items, finish)
    return verdicts, finish(verdicts)


def _finish(
    call: Call, terms: Terms, verdicts: list[Any], data: dict[str, Any], clean: Callable[[str], str] = str
) -> Any:
    """Write and print the summary; return it."""
    from aad_plugin.judges.statistics.results import print_summary, versions, write_results
    from aad_plugin.judges.statistics.summary import summarize

    verdicts = to_count(call.protocol, verdicts)
    summary = summarize(verdicts, seed=terms.seed, **data)
    if call.output is not None:
        sides = {"candidate": call.candidate, "baseline": call.baseline} if call.candidate else {}
        command = clean(" ".join(["aad", *sys.argv[1:]]))
        about = {**sides, "seed": terms.seed, "versions": versions(), "command": command}
        write_results(call.output, verdicts, {**summary.to_json(), **about})
    print_summary(summary)
    return summary


def _check_share(summary: Any, limit: float) -> None:
    """Exit with 2 where too many items are unjudged."""
    if summary.n and summary.too_many_unjudged(limit):
        _check_unjudged(summary.n, summary.n_unjudged, summary.unjudged, limit)


def _check_unjudged(num: int, num_unjudged: int, reasons: dict[str, int], limit: float) -> None:
    if num_unjudged > limit * num or num_unjudged == num:
        told = f" ({json.dumps(reasons)})" if reasons else ""
        typer.echo(
            f"{num_unjudged} of {num} items are unjudged{told}, more than "
            f"{limit:.1%}; run the same command again to try them again, or set --max-unjudged",
            err=True,
        )
        raise typer.Exit(2)


def _check_limits(verdicts: list[Any], judges: list[Any]) -> None:
    """Warn and exit with 4 where the judge's two orders do not agree as its limits say."""
    from aad_plugin.judges.statistics.limits import outside

    limits = judges[0].limits if len(judges) == 1 else None
    if told := outside(verdicts, limits):
        for line in told:
            typer.echo(f"WARNING: {line}", err=True)
        typer.echo(
            "such verdicts say little about the answers: see `aad judge-check`, or set min_consistency, max_first_share "
            "or max_contradictions in the judge's file",
            err=True,
        )
        raise typer.Exit(4)
