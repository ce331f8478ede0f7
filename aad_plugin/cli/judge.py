"""`aad judge`: judge answers that lie in files, or rebuild the summary of what was judged before."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli import judge_files as read
from aad_plugin.cli import judge_options as options
from aad_plugin.cli.judge_cascade import judge_by_cascade
from aad_plugin.cli.judge_protocol import as_meetings, check_labels, check_protocol, finish_protocol, items_of
from aad_plugin.cli.judge_running import Running
from aad_plugin.cli.judge_systems import finish_systems, meetings_of
from aad_plugin.cli.league import Draws, Elo, Sides, Style
from aad_plugin.errors import ConfigError


def _statistics(text: str, *names: str, **bounds: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Statistics", **bounds)


def _league(text: str, *names: str, **bounds: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Many systems", **bounds)


Systems = Annotated[
    list[str] | None,
    _league(
        "Answers of many systems, each FILE, FILE#strategy or NAME=FILE: --systems A B C. They meet in a round robin."
    ),
]
MoreSystems = Annotated[
    list[str] | None, typer.Argument(help="Further systems, after --systems A.", show_default=False)
]
Anchors = Annotated[
    list[str] | None,
    _league("A system that all others meet, instead of a round robin; the first one's score is 0.", "--anchor"),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="Count and keep verdicts as arena-hard-v0.1, arena-hard-v2.0, mt-bench-single, mt-bench-pairwise or "
        "alpaca-eval-2 do; upstream's scorer reads the files."
    ),
]
Cascade = Annotated[
    str | None,
    typer.Option(help="The expensive judge of a cascade: asked if --judge is unsure, and about a random share."),
]
DearShare = Annotated[
    float, typer.Option(help="Share of the items that the expensive judge is asked about, in (0, 1].")
]
JuryKind = Annotated[str, typer.Option("--jury", help="all: every judge judges every prompt; cyclic: they take turns.")]
Challenge = Annotated[
    bool, _statistics("Tell the judge of a random subset that it is wrong: does its verdict flip?", "--challenge")
]
Candidate = Annotated[
    str, typer.Option(help="Answers: lm-eval samples, AlpacaEval outputs or JSON lines; FILE#strategy.")
]
Baseline = Annotated[str, typer.Option(help="Answers to compare with; none for a pointwise judge.")]
Judges = Annotated[
    list[str] | None, typer.Option("--judge", help="kind:name[,option=value…] or a YAML file; several make a jury.")
]
Output = Annotated[Path | None, typer.Option(help="Folder for the store, verdicts.jsonl and summary.json.")]
PromptField = Annotated[str | None, typer.Option(help="Field that holds the prompt, for tasks of other packages.")]
AllowUnmatched = Annotated[bool, typer.Option(help="Judge the prompts that are in both files, ignore the others.")]
Transport = Annotated[str, typer.Option(help="live, batch or file.")]
Results = Annotated[Path | None, typer.Option(help="Replies, for --transport file; default OUTPUT/results.jsonl.")]
PollS = Annotated[float, typer.Option(help="Seconds between two requests for the state of a batch.")]
EstimateOnly = Annotated[
    bool, typer.Option("--estimate", help="Print requests, tokens, cost and detectable difference; spend nothing.")
]
MaxCost = Annotated[
    float | None, typer.Option(help="Stop this run before it costs more than this; a jury shares it evenly.")
]
From = Annotated[
    Path | None, typer.Option("--from", help="Rebuild the summary of verdicts.jsonl or of AlpacaEval annotations.")
]
Repeats = Annotated[int, _statistics("Judge a random subset this many times again.", min=0)]
Labels = Annotated[Path | None, _statistics("Human verdicts for some items, JSON lines.")]
Difficulties = Annotated[Path | None, _statistics("AlpacaEval's instruction difficulties, CSV.")]
Gamed = Annotated[
    Path | None,
    _statistics("AlpacaEval's df_gamed.csv: length control by the alpaca_eval package itself.", "--df-gamed"),
]
MaxUnjudged = Annotated[float, _statistics("Share of unjudged items above which the exit code is 2.", min=0, max=1)]
Seed = Annotated[int, _statistics("Of the order of prompts, the repeated subset and the bootstrap of kappa.")]


def judge(
    more_systems: MoreSystems = None,
    candidate: Candidate = "",
    baseline: Baseline = "",
    judges: Judges = None,
    output: Output = None,
    protocol: Protocol = None,
    systems: Systems = None,
    anchors: Anchors = None,
    style: Style = "",
    sides: Sides = False,
    elo: Elo = False,
    draws: Draws = 1000,
    cascade: Cascade = None,
    dear_share: DearShare = 0.5,
    jury: JuryKind = "all",
    template: options.Template = None,
    rubric: options.Rubric = None,
    reasons: options.Reasons = None,
    language: options.Language = None,
    prompt_field: PromptField = None,
    allow_unmatched: AllowUnmatched = False,
    transport: Transport = "live",
    results: Results = None,
    poll_s: PollS = 30.0,
    estimate: EstimateOnly = False,
    max_cost: MaxCost = None,
    from_file: From = None,
    base_url: options.BaseUrl = None,
    key_variable: options.KeyVariable = None,
    header: options.Header = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    token_limit_name: options.TokenLimitName = None,
    reasoning_effort: options.ReasoningEffort = None,
    form: options.Form = None,
    concurrency: options.Concurrency = None,
    timeout_s: options.TimeoutS = None,
    patience_s: options.Patience = None,
    price: options.Price = None,
    repeats: Repeats = 0,
    challenge: Challenge = False,
    labels: Labels = None,
    difficulties: Difficulties = None,
    gamed: Gamed = None,
    max_unjudged: MaxUnjudged = 0.02,
    seed: Seed = 0,
) -> None:
    """Judge answers, pairwise or one by one, and say how sure the win rate is.

    Exit code 0: judged. 1: stopped by an error (what was judged before is kept). 2: too many items are unjudged. 4: the
    judge contradicts itself beyond its limits.
    """
    how = options.shared(locals())
    data_of = partial(read.data_of, labels=labels, difficulties=difficulties, gamed=gamed, prompt_field=prompt_field)
    named = {"candidate": candidate, "baseline": baseline} if candidate else {}
    finish = partial(_finish, output=output, seed=seed, sides=named)
    if from_file is not None:
        verdicts = read.verdicts_of(from_file)
        _check_share(finish(verdicts, data_of(verdicts)), max_unjudged)
        _check_limits(verdicts, options.load(judges, how) if judges else [])
        return
    specs = [*(systems or []), *(more_systems or [])]
    _check_call(candidate, specs, systems, anchors, judges, cascade, protocol, style, sides, elo)
    if protocol:
        asked_by = check_protocol(protocol, baseline, anchors or [], specs, len(judges or []), style)
        how["template"] = template or asked_by
    loaded = options.load([*(judges or []), *([cascade] if cascade else [])], how)
    if protocol:
        check_labels(protocol, loaded[0])
    dear = loaded.pop() if cascade else None
    sitting = {"transport": transport, "results": results, "max_cost": max_cost, "poll_s": poll_s}
    running = Running(loaded, output, seed, repeats, challenge, jury, sitting)
    meetings = meetings_of(specs, anchors or [], prompt_field, allow_unmatched) if specs else []
    items = [one.comparison for one in meetings] or read.items_of(candidate, baseline, prompt_field, allow_unmatched)
    if protocol:
        items = items_of(protocol, items)
        meetings = meetings or as_meetings(items, candidate, baseline)
    dear_judge = [dear] if dear else []
    replace(running, judges=[*loaded, *dear_judge]).check(items)
    if estimate:
        running.print_estimates(items)
        if dear:
            typer.echo(f"and on {dear_share:.0%} of the items:")
            replace(running, judges=dear_judge).print_estimates(items)
        return
    if output is None:
        raise ConfigError("pass --output DIR: what is judged is kept there")
    clean = options.cleaner([*loaded, *dear_judge])
    if dear:
        figures = judge_by_cascade(items, loaded, dear, dear_share, seed, output, sitting)
        _check_unjudged(figures["n"], figures["n_unjudged"], {}, max_unjudged)
        return
    if specs:
        league = {"style": style, "sides": sides, "elo": elo, "draws": draws, "seed": seed}
        league["anchor"] = anchors[0] if anchors else None
        verdicts = running.verdicts(items)
        summary = finish_systems(meetings, verdicts, output, clean, **league)
    else:
        data = data_of(read.unjudged(items, loaded[0]), judge=loaded[0])
        finish = partial(finish, data=data, clean=clean)
        verdicts = running.verdicts_or_kept(items, finish)
        summary = finish(verdicts)
    if protocol:
        finish_protocol(protocol, output, meetings, verdicts, loaded[0].name, style)
    _check_share(summary, max_unjudged)
    _check_limits(verdicts, loaded)


def _check_call(
    candidate: str,
    specs: list[str],
    systems: list[str] | None,
    anchors: list[str] | None,
    judges: list[str] | None,
    cascade: str | None,
    protocol: str | None,
    style: str,
    sides: bool,
    elo: bool,
) -> None:
    """Refuse arguments that do not go together."""
    from aad_plugin.judges.leagues.style import chosen_features

    if specs and not systems:
        raise ConfigError(
            f"unexpected argument {specs[0]!r}; many systems follow --systems, one answer file --candidate"
        )
    if specs and candidate:
        raise ConfigError("pass --candidate and --baseline for two systems, or --systems for many, not both")
    if anchors and not specs:
        raise ConfigError("--anchor belongs to --systems")
    if (style or sides or elo) and not (specs or protocol):
        raise ConfigError("--style, --sides and --elo belong to --systems (--style also to an Arena-Hard protocol)")
    if style:
        chosen_features(style)  # a mistake in it shows before anything is asked
    if protocol and cascade:
        raise ConfigError("a protocol has one judge: leave --cascade out")
    if specs and cascade:
        raise ConfigError("--cascade compares two systems: pass --candidate and --baseline")
    if not (candidate or specs) or not judges:
        raise ConfigError(
            "pass --candidate FILE and --judge SPEC (no judge is the default), or --from verdicts.jsonl; for many systems "
            "--systems FILE FILE … in the place of --candidate"
        )


def _finish(
    verdicts: list[Any],
    data: dict[str, Any],
    *,
    output: Path | None,
    seed: int,
    sides: dict[str, str],
    clean: Callable[[str], str] = str,
) -> Any:
    """Write and print the summary; return it."""
    from aad_plugin.judges.statistics.results import print_summary, versions, write_results
    from aad_plugin.judges.statistics.summary import summarize

    summary = summarize(verdicts, seed=seed, **data)
    if output is not None:
        command = clean(" ".join(["aad", *sys.argv[1:]]))
        about = {**sides, "seed": seed, "versions": versions(), "command": command}
        write_results(output, verdicts, {**summary.to_json(), **about})
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
