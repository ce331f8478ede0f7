"""How a judge behind an API is asked: one group of options, for every command that loads judges.

@takes_judge_options()
def command(asked: JudgeOptions, …)      takes --template, --rubric, --base-url, --header, --temperature, --price …
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from aad_plugin.cli.option_group import options_of, with_options
from aad_plugin.errors import ConfigError


def _chat(text: str, *names: str, **bounds: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Judge behind an API", **bounds)


@dataclass(frozen=True)
class JudgeOptions:
    """What a command line says of how its judges are asked; None where it says nothing.

    Raises:
        ConfigError: a header that is not read from the environment.
    """

    template: Annotated[
        str | None,
        typer.Option(
            help="dialogue, multiturn, moderation, categorization, grade, refusal, or the path of a .txt file."
        ),
    ] = None
    rubric: Annotated[
        str | None, typer.Option(help="YAML file of criteria, all judged in one call, each for itself.")
    ] = None
    reasons: Annotated[
        str | None,
        typer.Option(help="Where the judge writes its reasons: none (default), before or after its verdict."),
    ] = None
    language: Annotated[
        str | None,
        typer.Option(help="Language of the judge's prompt: de, zh, …, or auto for that of the answers; default en."),
    ] = None
    base_url: Annotated[str | None, _chat("OpenAI-compatible API, ends in /v1.")] = None
    key_variable: Annotated[str | None, _chat("Environment variable that holds the key; default OPENAI_API_KEY.")] = (
        None
    )
    header: Annotated[
        list[str] | None, _chat("Name=$VARIABLE: an extra header, its value read from the environment.")
    ] = None
    temperature: Annotated[float | None, _chat("Default 0.")] = None
    max_tokens: Annotated[int | None, _chat("Limit of a reply, thinking included; default 1024.")] = None
    token_limit_name: Annotated[str | None, _chat("Default max_completion_tokens; for older servers max_tokens.")] = (
        None
    )
    reasoning_effort: Annotated[str | None, _chat("Passed on to the judge.")] = None
    form: Annotated[str | None, _chat("logprobs, json or tag; default: found out by a probe.")] = None
    concurrency: Annotated[int | None, _chat("Requests in flight; default 16.")] = None
    timeout_s: Annotated[float | None, _chat("For one request, in seconds; default 120.")] = None
    patience_s: Annotated[
        float | None,
        _chat("Seconds a server that answers nothing is asked again; default 3600.", "--patience-s", min=0),
    ] = None
    price: Annotated[str | None, _chat("Money per million tokens, in/out, e.g. 2.0/8.0.")] = None

    def __post_init__(self) -> None:
        headers_of(self.header)

    def load(self, specs: Sequence[str]) -> list[Any]:
        """Load judges, each with those of the options that its kind takes.

        Args:
            specs: as for `load_judge`.
        Raises:
            ConfigError: an option that none of them takes; else as `load_judge`.
        """
        from aad_plugin.judges import load_judge
        from aad_plugin.judges.kinds.specs import accepted_options, parse_spec

        said = {**vars(self), "headers": headers_of(self.header)}
        given = {name: value for name, value in said.items() if value is not None and name != "header"}
        taken = [accepted_options(spec) for spec in specs]
        for name in given:
            if not any(name in names for names in taken):
                flag = "--header" if name == "headers" else f"--{name.replace('_', '-')}"
                kinds = ", ".join(sorted({parse_spec(spec)[0] for spec in specs}))
                raise ConfigError(f"{flag} means nothing to a judge of the kind {kinds}: leave it out")
        return [
            load_judge(spec, **{name: value for name, value in given.items() if name in names})
            for spec, names in zip(specs, taken, strict=True)
        ]

    def but(self, **options: Any) -> JudgeOptions:
        """Return the same with other options."""
        return dataclasses.replace(self, **options)


def takes_judge_options(*left_out: str) -> Callable[[Callable[..., Any]], Any]:
    """Give a command the options of :class:`JudgeOptions`, but those left out, in place of its parameter ``asked``."""
    options = options_of(JudgeOptions, *left_out)
    return lambda command: with_options(command, "asked", options, lambda words, _: JudgeOptions(**words))


def cleaner(judges: list[Any]) -> Any:
    """A function that takes the secrets of all these judges out of a text."""

    def clean(text: str) -> str:
        for judge in judges:
            text = judge.clean(text)
        return text

    return clean


def headers_of(given: Sequence[str] | None) -> dict[str, str] | None:
    """Return name → $VARIABLE of what --header was given; None for nothing.

    Raises:
        ConfigError: a value that is not read from the environment.
    """
    pairs = [header.partition("=") for header in given or []]
    for name, equals, value in pairs:
        if not (name and equals and value.startswith("$")):
            raise ConfigError(f"--header takes Name=$VARIABLE, so that no secret stands in a command; got {name}=…")
    return {name: value for name, _, value in pairs} or None
