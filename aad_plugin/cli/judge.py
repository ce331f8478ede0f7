"""`aad judge`: judge answers that lie in files, or rebuild the summary of what was judged before."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli import judge_files as read
from aad_plugin.cli import judge_options as options
from aad_plugin.errors import AADError, ConfigError


def _statistics(text: str, *names: str, **bounds: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Statistics", **bounds)


Candidate = Annotated[
    str, typer.Option(help="Answers: lm-eval samples, AlpacaEval outputs or JSON lines; FILE#strategy.")
]
Baseline = Annotated[str, typer.Option(help="Answers they are held against; none for a pointwise judge.")]
Judges = Annotated[
    list[str] | None, typer.Option("--judge", help="kind:name[,option=value…] or a YAML file; several make a jury.")
]
Output = Annotated[Path | None, typer.Option(help="Folder for the store, verdicts.jsonl and summary.json.")]
PromptField = Annotated[str | None, typer.Option(help="Field that holds the prompt, for foreign tasks.")]
AllowUnmatched = Annotated[bool, typer.Option(help="Judge the prompts that stand in both files, ignore the others.")]
Transport = Annotated[str, typer.Option(help="live, batch or file.")]
Results = Annotated[Path | None, typer.Option(help="Replies, for --transport file; default OUTPUT/results.jsonl.")]
PollS = Annotated[float, typer.Option(help="Seconds between two looks at a batch.")]
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
    Path | None, _statistics("AlpacaEval's df_gamed.csv: length control by the alpaca_eval package itself.")
]
MaxUnjudged = Annotated[float, _statistics("Share of unjudged items above which the exit code is 2.", min=0, max=1)]
Seed = Annotated[int, _statistics("Of the order of prompts, the repeated subset and the bootstrap of kappa.")]


def judge(
    candidate: Candidate = "",
    baseline: Baseline = "",
    judges: Judges = None,
    output: Output = None,
    template: options.Template = None,
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
    sides = {"candidate": candidate, "baseline": baseline} if candidate else {}
    finish = partial(_finish, output=output, seed=seed, sides=sides)
    data_of = partial(read.data_of, labels=labels, difficulties=difficulties, gamed=gamed, prompt_field=prompt_field)
    if from_file is not None:
        verdicts = read.verdicts_of(from_file)
        _check_share(finish(verdicts, data_of(verdicts)), max_unjudged)
        _check_limits(verdicts, options.load(judges, how) if judges else [])
        return
    if not candidate or not judges:
        raise ConfigError("pass --candidate FILE and --judge SPEC (no judge is the default), or --from verdicts.jsonl")
    items = read.items_of(candidate, baseline, prompt_field, allow_unmatched)
    loaded = options.load(judges, how)
    read.check_run(items, loaded, repeats, transport, max_cost)
    if estimate:
        _print_estimates(items, loaded, output, transport, seed, repeats)
        return
    if output is None:
        raise ConfigError("pass --output DIR: what is judged is kept there")
    data = data_of(read.unjudged(items, loaded[0]), judge=loaded[0])
    finish = partial(finish, data=data, clean=options.cleaner(loaded))
    sitting = {"transport": transport, "results": results, "max_cost": max_cost, "poll_s": poll_s}
    verdicts = _judged(finish, items, loaded, output, seed, repeats, sitting)
    _check_share(finish(verdicts), max_unjudged)
    _check_limits(verdicts, loaded)


def _judged(finish: Callable[[list[Any]], Any], items: list[Any], judges: list[Any], *run: Any) -> list[Any]:
    """Verdicts; of a run that ends early, what is kept is written and shown before its error goes on."""
    try:
        return _verdicts(items, judges, *run)
    except (AADError, KeyboardInterrupt):
        with suppress(AADError):  # what ended the run is what has to be said
            if kept := _kept(items, judges, *run[:-1]):
                finish(kept)
        raise


def _verdicts(items: list[Any], judges: list[Any], output: Path, seed: int, repeats: int, sitting: dict) -> list[Any]:
    from aad_plugin.judges import compare, grade, jury_verdicts

    by_judge: dict[str, list[Any]] = {}
    if sitting["max_cost"] is not None:
        sitting = sitting | {"max_cost": sitting["max_cost"] / len(judges)}
    for number, one in enumerate(judges, start=1):
        terms = sitting | {"transport": read.transport_of(sitting["transport"], one, judges)}
        name = one.name if one.name not in by_judge else f"{one.name} ({number})"
        if one.kind == "pairwise":
            by_judge[name] = compare(items, one, output, seed=seed, repeats=repeats, **terms)
        else:
            by_judge[name] = grade(items, one, output, seed=seed, **terms)
    return jury_verdicts(by_judge) if len(judges) > 1 else next(iter(by_judge.values()))


def _kept(items: list[Any], judges: list[Any], output: Path, seed: int, repeats: int) -> list[Any]:
    """Verdicts of what the store holds after a run that ended early; none for a jury or an unused store."""
    from aad_plugin.judges.sitting.judging import stored_verdicts

    if len(judges) > 1 or not (output / "store.jsonl").exists():
        return []
    verdicts = stored_verdicts(items, judges[0], output, seed=seed, repeats=repeats)
    return verdicts if any(v.models for v in verdicts) else []


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
        typer.echo(
            f"{summary.n_unjudged} of {summary.n} items are unjudged ({json.dumps(summary.unjudged)}), more than "
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


def _print_estimates(
    items: list[Any], judges: list[Any], output: Path | None, transport: str, seed: int, repeats: int
) -> None:
    from aad_plugin.judges.sitting.estimate import estimate

    for one in judges:
        found = estimate(items, one, output, transport=transport, seed=seed, repeats=repeats)
        money = "unknown (pass --price)" if found.cost is None else f"{found.cost:.4f}, at most {found.most_cost:.4f}"
        unsure = (
            "" if found.form_known else " (in the dearest form of reply: the judge was not asked yet which it knows)"
        )
        typer.echo(
            f"{found.judge}: {found.num_items} items, {found.requests} requests, about {found.prompt_tokens} prompt "
            f"and {found.completion_tokens} completion tokens, cost {money}{unsure}; smallest detectable "
            f"win-rate difference from one half: {100 * found.detectable:.1f} points (5 % level, power 80 %)"
        )
