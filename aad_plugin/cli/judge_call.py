"""What `aad judge` is told: whose answers are compared and by whom, and on what terms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli.league import Draws, Elo, Sides, Style
from aad_plugin.cli.option_group import refuse_unread
from aad_plugin.errors import ConfigError


def _statistics(text: str, *names: str, **bounds: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Statistics", **bounds)


def _league(text: str, *names: str, **bounds: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Many systems", **bounds)


@dataclass(frozen=True)
class Call:
    """Whose answers are compared, by which judges and in which arrangement."""

    more_systems: Annotated[
        list[str] | None, typer.Argument(help="Further systems, after --systems A.", show_default=False)
    ] = None
    candidate: Annotated[
        str, typer.Option(help="Answers: lm-eval samples, AlpacaEval outputs or JSON lines; FILE#strategy.")
    ] = ""
    baseline: Annotated[str, typer.Option(help="Answers to compare with; none for a pointwise judge.")] = ""
    judges: Annotated[
        list[str] | None, typer.Option("--judge", help="kind:name[,option=value…] or a YAML file; several make a jury.")
    ] = None
    output: Annotated[Path | None, typer.Option(help="Folder for the store, verdicts.jsonl and summary.json.")] = None
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Count and keep verdicts as arena-hard-v0.1, arena-hard-v2.0, mt-bench-single, mt-bench-pairwise or "
            "alpaca-eval-2 do; upstream's scorer reads the files."
        ),
    ] = None
    systems: Annotated[
        list[str] | None,
        _league(
            "Answers of many systems, each FILE, FILE#strategy or NAME=FILE: --systems A B C. They meet in a round robin."
        ),
    ] = None
    anchors: Annotated[
        list[str] | None,
        _league("A system that all others meet, instead of a round robin; the first one's score is 0.", "--anchor"),
    ] = None
    style: Style = ""
    sides: Sides = False
    elo: Elo = False
    draws: Draws = 1000
    cascade: Annotated[
        str | None,
        typer.Option(help="The expensive judge of a cascade: asked if --judge is unsure, and about a random share."),
    ] = None
    dear_share: Annotated[
        float, typer.Option(help="Share of the items that the expensive judge is asked about, in (0, 1].")
    ] = 0.5
    jury: Annotated[
        str, typer.Option("--jury", help="all: every judge judges every prompt; cyclic: they take turns.")
    ] = "all"

    @property
    def specs(self) -> list[str]:
        """Answers of many systems."""
        return [*(self.systems or []), *(self.more_systems or [])]

    def check(self, terms: Terms) -> None:
        """Raise ConfigError for arguments that do not go together."""
        from aad_plugin.judges.leagues.style import chosen_features

        if self.specs and not self.systems:
            raise ConfigError(
                f"unexpected argument {self.specs[0]!r}; many systems follow --systems, one answer file --candidate"
            )
        if self.specs and self.candidate:
            raise ConfigError("pass --candidate and --baseline for two systems, or --systems for many, not both")
        self._refuse_unread(terms)
        if self.anchors and not self.specs:
            raise ConfigError("--anchor belongs to --systems")
        if self.style:
            chosen_features(self.style)  # a mistake in it shows before anything is asked
        if self.protocol and self.cascade:
            raise ConfigError("a protocol has one judge: leave --cascade out")
        if self.specs and self.cascade:
            raise ConfigError("--cascade compares two systems: pass --candidate and --baseline")
        if (self.specs or self.cascade) and terms.of_one_win_rate:
            raise ConfigError(
                f"{'--systems' if self.specs else '--cascade'} makes no use of {', '.join(terms.of_one_win_rate)}, which "
                "belong to verdicts of --judge on one --candidate: leave them out"
            )
        if not (self.candidate or self.specs) or not self.judges:
            raise ConfigError(
                "pass --candidate FILE and --judge SPEC (no judge is the default), or --from verdicts.jsonl; for many "
                "systems --systems FILE FILE … in the place of --candidate"
            )

    def check_from(self, terms: Terms) -> None:
        """Raise ConfigError for arguments that say how to ask, where what was judged before is counted again."""
        if self.more_systems:
            raise ConfigError(f"unexpected argument {self.more_systems[0]!r} beside --from")
        arranged = ("protocol", "systems", "anchors", "style", "sides", "elo", "draws", "cascade", "dear_share", "jury")
        asked = (
            "allow_unmatched", "transport", "results", "poll_s", "leave_batches", "estimate", "max_cost", "repeats",
            "challenge",
        )  # fmt: skip
        form = "aad judge --from, which counts what was judged before,"
        refuse_unread(self, arranged, form)
        refuse_unread(terms, asked, form)

    def _refuse_unread(self, terms: Terms) -> None:
        """Refuse options that belong to another arrangement or transport."""
        if not self.specs:
            refuse_unread(self, ["sides", "elo", "draws"], "a run without --systems")
            if not (self.protocol or "").startswith("arena-hard"):
                refuse_unread(self, ["style"], "a run without --systems and without an Arena-Hard protocol")
        if not self.cascade:
            refuse_unread(self, ["dear_share"], "a run without --cascade")
        else:
            refuse_unread(self, ["jury"], "a cascade, which has one cheap judge,")
        if not self.specs and not self.baseline:
            refuse_unread(terms, ["allow_unmatched"], "a run without --baseline")
        for name, transport in (("results", "file"), ("poll_s", "batch")):
            if terms.transport != transport:
                refuse_unread(terms, [name], f"--transport {terms.transport}")
        if terms.transport == "batch":
            refuse_unread(terms, ["leave_batches"], "--transport batch, which collects them,")


@dataclass(frozen=True)
class Terms:
    """How items are read, asked and counted, whoever judges them."""

    prompt_field: Annotated[
        str | None, typer.Option(help="Field that holds the prompt, for tasks of other packages.")
    ] = None
    allow_unmatched: Annotated[
        bool, typer.Option(help="Judge the prompts that are in both files, ignore the others.")
    ] = False
    transport: Annotated[str, typer.Option(help="live, batch or file.")] = "live"
    results: Annotated[
        Path | None, typer.Option(help="Replies, for --transport file; default OUTPUT/results.jsonl.")
    ] = None
    poll_s: Annotated[float, typer.Option(help="Seconds between two requests for the state of a batch.", min=0)] = 30.0
    leave_batches: Annotated[
        bool, typer.Option("--leave-batches", help="Ask live what an uncollected batch holds, and pay for it twice.")
    ] = False
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print requests, tokens, cost and detectable difference; spend nothing.")
    ] = False
    max_cost: Annotated[
        float | None, typer.Option(help="Stop this run before it costs more than this; a jury shares it evenly.")
    ] = None
    from_file: Annotated[
        Path | None, typer.Option("--from", help="Rebuild the summary of verdicts.jsonl or of AlpacaEval annotations.")
    ] = None
    repeats: Annotated[int, _statistics("Judge a random subset this many times again.", min=0)] = 0
    challenge: Annotated[
        bool, _statistics("Tell the judge of a random subset that it is wrong: does its verdict flip?", "--challenge")
    ] = False
    labels: Annotated[Path | None, _statistics("Human verdicts for some items, JSON lines.")] = None
    difficulties: Annotated[Path | None, _statistics("AlpacaEval's instruction difficulties, CSV.")] = None
    gamed: Annotated[
        Path | None,
        _statistics("AlpacaEval's df_gamed.csv: length control by the alpaca_eval package itself.", "--df-gamed"),
    ] = None
    max_unjudged: Annotated[
        float, _statistics("Share of unjudged items above which the exit code is 2.", min=0, max=1)
    ] = 0.02
    seed: Annotated[int, _statistics("Of the order of prompts, the repeated subset and the bootstrap of kappa.")] = 0

    @property
    def sitting(self) -> dict[str, Any]:
        """What a sitting of judges is told."""
        return {
            "transport": self.transport, "results": self.results, "max_cost": self.max_cost, "poll_s": self.poll_s,
            "leave_batches": self.leave_batches,
        }  # fmt: skip

    @property
    def of_one_win_rate(self) -> list[str]:
        """Which of the given options add to the figures of one judged file, and to nothing else."""
        given = {
            "--repeats": self.repeats, "--challenge": self.challenge, "--labels": self.labels,
            "--difficulties": self.difficulties, "--df-gamed": self.gamed,
        }  # fmt: skip
        return [name for name, value in given.items() if value]

    @property
    def data(self) -> dict[str, Any]:
        """Where the figures beside the verdicts are read from."""
        return {
            "labels": self.labels,
            "difficulties": self.difficulties,
            "gamed": self.gamed,
            "prompt_field": self.prompt_field,
        }
