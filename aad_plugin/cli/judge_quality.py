"""`aad judge-check --on SET`: how good a judge is on comparisons that people judged, and how many labels a study needs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli.judge_options import JudgeOptions
from aad_plugin.cli.option_group import refuse_unread
from aad_plugin.errors import ConfigError, JudgeError


def _quality(text: str, *names: str, **bounds: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="On comparisons that people judged", **bounds)


@dataclass(frozen=True)
class QualityOptions:
    """What a command line says of comparisons that people judged."""

    on: Annotated[
        str | None,
        _quality(
            "llmbar, mt-bench-human, pandalm, or a file with prompt, candidate, baseline and label or labels.", "--on"
        ),
    ] = None
    data: Annotated[
        Path | None, _quality("Upstream's file or folder of that set; default AAD_DATA_DIR, then here.")
    ] = None
    replies: Annotated[
        Path | None, _quality("Another judge's published replies on that set, in the place of --judge; asks nothing.")
    ] = None
    estimate: Annotated[bool, _quality("Print what --on would cost; spend nothing.", "--estimate")] = False
    plan: Annotated[
        float | None,
        _quality("Take --on as a pilot: how many labels or verdicts find a win rate this far from 0.5?", "--plan"),
    ] = None
    verdicts: Annotated[
        Path | None, _quality("For --plan: verdicts.jsonl of the study; says which of its items to label first.")
    ] = None

    def refuse_without_set(self) -> None:
        """Raise ConfigError for any of them without --on."""
        if self.data or self.replies or self.estimate or self.plan is not None or self.verdicts:
            raise ConfigError(
                "--data, --replies, --estimate, --plan and --verdicts belong to --on: pass the set or file with it"
            )


def check_quality(
    judge: str | None,
    how: JudgeOptions,
    output: Path | None,
    given: QualityOptions,
    on: str,
    min_kappa: float | None = None,
) -> None:
    """Judge or read replies, print what was found and, with `output`, write ``quality.json`` and ``label_first.jsonl``.

    Exits with 3 where the lower bound of kappa is not above `min_kappa`.
    """
    from aad_plugin.judges.checks.human_sets import read_replies, read_set
    from aad_plugin.judges.checks.quality import quality_of
    from aad_plugin.judges.statistics.planning import plan

    if (judge is None) == (given.replies is None):
        raise ConfigError(
            "--on measures one judge: pass --judge SPEC to ask one, or --replies FILE to read published ones"
        )
    _refuse_unread(how, given, on, min_kappa)
    if given.verdicts is not None and given.plan is None:
        raise ConfigError("--verdicts belongs to --plan: pass --plan with the difference to be found, e.g. --plan 0.05")
    items = read_set(on, given.data)
    others = _others(given.verdicts) if given.verdicts else {}
    if given.replies is not None:
        verdicts = read_replies(given.replies, items)
    else:
        (loaded,) = how.load([judge or ""])
        if loaded.kind != "pairwise":
            raise ConfigError(
                f"--on compares two answers and {loaded.name} judges one by one: check it with --labels FILE"
            )
        if given.estimate:
            _print_estimate(items, loaded, output)
            return
        verdicts = _judged(items, loaded, output)
    found = quality_of(items, verdicts)
    _print(found, on)
    planned = None
    if given.plan is not None:
        pilot = _pilot(items, verdicts)
        planned = plan(pilot, given.plan, len(others) or math.inf)
        _print_plan(pilot, planned)
    if output is not None:
        _write(output, on, found, planned, others, verdicts)
    elif others:
        typer.echo(f"label first: {', '.join(list(_ordered(others))[:20])}, … (all of them with --output DIR)")
    # NaN (one verdict throughout) shows no agreement, so it does not pass either.
    if min_kappa is not None and not found.kappa_low > min_kappa:
        typer.echo(
            f"this judge did not pass: the lower bound of kappa is {found.kappa_low:.3f}, expected above {min_kappa:g}",
            err=True,
        )
        raise typer.Exit(3)


def _refuse_unread(how: JudgeOptions, given: QualityOptions, on: str, min_kappa: float | None) -> None:
    """Refuse what a form of --on does not read."""
    from aad_plugin.judges.checks.human_sets import SETS

    if given.replies is not None:
        refuse_unread(how, [field.name for field in dataclasses.fields(how)], "--replies asks no judge, so it")
        refuse_unread(given, ["estimate"], "--replies asks no judge, so it")
    if given.estimate:
        refuse_unread(given, ["plan", "verdicts"], "--estimate")
    if given.estimate and min_kappa is not None:
        raise ConfigError("--estimate measures nothing: leave --min-kappa out")
    if on not in SETS:
        refuse_unread(given, ["data"], f"--on {on}, a file of its own,")


def _judged(items: list[Any], judge: Any, output: Path | None) -> list[Any]:
    from aad_plugin.judges import compare

    return compare([item.comparison for item in items], judge, output)


def _print_estimate(items: list[Any], judge: Any, output: Path | None) -> None:
    from aad_plugin.judges import estimate

    found = estimate([item.comparison for item in items], judge, output)
    money = (
        "unknown (pass --price, or a preset)"
        if found.cost is None
        else f"{found.cost:.4f}, at most {found.most_cost:.4f}"
    )
    typer.echo(
        f"{found.judge}: {found.num_items} items, {found.requests} requests, about {found.prompt_tokens} prompt and "
        f"{found.completion_tokens} completion tokens, cost {money}"
    )


def _pilot(items: list[Any], verdicts: list[Any]) -> Any:
    """Items with a label by people (their mean) and a verdict."""
    from aad_plugin.judges.statistics.planning import pilot_of

    both = [(math.fsum(i.people) / len(i.people), v.p) for i, v in zip(items, verdicts, strict=True) if v.p is not None]
    return pilot_of([label for label, _ in both], [p for _, p in both])


def _others(path: Path) -> dict[str, float]:
    from aad_plugin.judges.statistics.results import read_verdicts

    found = {verdict.id: verdict.p for verdict in read_verdicts(path) if verdict.p is not None}
    if not found:
        raise ConfigError(f"{path} holds no pairwise verdicts, so it does not say which items to label first")
    return found


def _ordered(others: Mapping[str, float]) -> list[str]:
    from aad_plugin.judges.statistics.planning import order_to_label

    ids = list(others)
    return [ids[place] for place in order_to_label([others[name] for name in ids])]


def _print(found: Any, on: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from aad_plugin.judges.statistics.intervals import shown

    table = Table("", "value [95 %]", "prompts", title=f"{found.judge} on {on}", title_justify="left")
    for name, one in [
        ("accuracy", found.accuracy),
        *((f"  {name}", one) for name, one in found.by_subset.items()),
        *(
            [("accuracy where people favour a side", found.side_accuracy)]
            if found.side_accuracy != found.accuracy
            else []
        ),
        ("both orders favour the same side", found.consistency),
        ("what stands first wins", found.first),
        *((f"agreement with person {number}", one) for number, one in enumerate(found.with_each, start=1)),
    ]:
        if one.n:
            table.add_row(name, shown(one.value, one.low, one.high), str(one.n))
    if not math.isnan(found.kappa):
        table.add_row("kappa with the majority", shown(found.kappa, found.kappa_low, found.kappa_high), "")
    for name, value in (
        ("agreement with a person", found.with_people),
        ("people: with each other", found.people),
        ("people: with what the others agree on", found.people_majority),
    ):
        if not math.isnan(value):
            table.add_row(name, f"{value:.3f}", "")
    for rate, (value, low, high) in found.implied.items():
        told = "nothing: not shown to be better than a coin" if math.isnan(value) else shown(value, low, high)
        table.add_row(f"a win rate of {rate:.2f} implies, by people", told, "")
    console = Console(markup=False)
    console.print(table)
    if found.position_bias:
        console.print(f"POSITION BIAS: what stands first wins with {found.first.value:.3f}")
    cost = "unknown (no price)" if found.cost is None else f"{found.cost:.4f}"
    console.print(
        f"{found.n_unjudged} of {found.n} items unjudged, {found.n_without_majority} without a majority of people; "
        f"{found.prompt_tokens} prompt and {found.completion_tokens} completion tokens, cost {cost}"
    )


def _print_plan(pilot: Any, planned: Any) -> None:
    if pilot.correlation < 0:
        typer.echo(
            "WARNING: verdicts and labels point opposite ways: are candidate and baseline swapped in one of them?"
        )
    many = "as many items as it takes" if math.isinf(planned.verdicts) else f"{planned.verdicts:.0f} items"
    typer.echo(
        f"pilot: {pilot.num} items, correlation of verdict and label {pilot.correlation:.3f} (reckoned with "
        f"{pilot.cautious:.3f})\nto find a win rate of {0.5 + planned.difference:g} (5 % level, power 80 %): "
        f"{planned.labels_alone} labels alone, or {planned.labels} with this judge's verdicts on {many}"
    )
    half = max(2, math.ceil(planned.labels_alone / 2))
    if planned.verdicts_needed is None:
        typer.echo(f"no number of verdicts by this judge makes {half} labels do")
    else:
        typer.echo(f"with {half} labels, {planned.verdicts_needed} judged items in all")


def _write(output: Path, on: str, found: Any, planned: Any, others: Mapping[str, float], verdicts: list[Any]) -> None:
    from aad_plugin.files.whole import replacing, without_nan
    from aad_plugin.judges.checks.quality import to_json
    from aad_plugin.judges.statistics.results import versions

    report = {"on": on, **to_json(found), "versions": versions()}
    if planned is not None:
        kept = dataclasses.asdict(planned)
        report["plan"] = kept | {"verdicts": None if math.isinf(planned.verdicts) else planned.verdicts}
    texts = {
        "quality.json": json.dumps(without_nan(report), indent=2) + "\n",
        "verdicts.jsonl": "".join(json.dumps(verdict.to_json()) + "\n" for verdict in verdicts),
    }
    if others:
        texts["label_first.jsonl"] = "".join(
            json.dumps({"id": name, "p": others[name]}) + "\n" for name in _ordered(others)
        )
    try:
        for name, text in texts.items():
            with replacing(output / name) as part:
                part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JudgeError(f"cannot write to {output}: {error.strerror or error}; all rulings are kept") from error
    typer.echo(f"written to {', '.join(str(output / name) for name in texts)}")
