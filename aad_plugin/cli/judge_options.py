"""Options that `aad judge` and `aad judge-check` share: how a judge is named and reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from aad_plugin.errors import ConfigError

_OPTIONS = (
    "template", "base_url", "key_variable", "temperature", "max_tokens", "token_limit_name", "reasoning_effort", "form",
    "concurrency", "timeout_s", "patience_s", "price", "rubric", "reasons", "language",
)  # fmt: skip


def _chat(text: str, *names: str, **bounds: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Judge behind an API", **bounds)


BaseUrl = Annotated[str | None, _chat("OpenAI-compatible API, ends in /v1.")]
KeyVariable = Annotated[str | None, _chat("Environment variable that holds the key; default OPENAI_API_KEY.")]
Header = Annotated[list[str] | None, _chat("Name=$VARIABLE: an extra header, its value read from the environment.")]
Temperature = Annotated[float | None, _chat("Default 0.")]
MaxTokens = Annotated[int | None, _chat("Limit of a reply, thinking included; default 1024.")]
TokenLimitName = Annotated[str | None, _chat("Default max_completion_tokens; for older servers max_tokens.")]
ReasoningEffort = Annotated[str | None, _chat("Passed on to the judge.")]
Form = Annotated[str | None, _chat("logprobs, json or tag; default: found out by a probe.")]
Concurrency = Annotated[int | None, _chat("Requests in flight; default 16.")]
TimeoutS = Annotated[float | None, _chat("For one request, in seconds; default 120.")]
Patience = Annotated[
    float | None, _chat("Seconds a server that answers nothing is asked again; default 3600.", "--patience-s", min=0)
]
Price = Annotated[str | None, _chat("Money per million tokens, in/out, e.g. 2.0/8.0.")]
Rubric = Annotated[str | None, typer.Option(help="YAML file of criteria, all judged in one call, each for itself.")]
Reasons = Annotated[
    str | None, typer.Option(help="Where the judge writes its reasons: none (default), before or after its verdict.")
]
Language = Annotated[
    str | None,
    typer.Option(help="Language of the judge's prompt: de, zh, …, or auto for that of the answers; default en."),
]
Template = Annotated[
    str | None,
    typer.Option(help="dialogue, multiturn, moderation, categorization, grade, refusal, or the path of a .txt file."),
]


def shared(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of a command's arguments those that this module declares, as options of a judge; None where not given.

    Raises:
        ConfigError: a header that is not read from the environment.
    """
    return {name: given.get(name) for name in _OPTIONS} | {"headers": _headers(given["header"])}


def load(specs: Sequence[str], how: Mapping[str, Any]) -> list[Any]:
    """Load judges, each with those of the options that its kind takes.

    Args:
        specs: as for `load_judge`. how: from `shared`.
    Raises:
        ConfigError: an option that none of them takes; else as `load_judge`.
    """
    from aad_plugin.judges import load_judge
    from aad_plugin.judges.kinds.specs import accepted_options, parse_spec

    given = {name: value for name, value in how.items() if value is not None}
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


def cleaner(judges: list[Any]) -> Any:
    """A function that takes the secrets of all these judges out of a text."""

    def clean(text: str) -> str:
        for judge in judges:
            text = judge.clean(text)
        return text

    return clean


def _headers(given: list[str] | None) -> dict[str, str] | None:
    pairs = [header.partition("=") for header in given or []]
    for name, equals, value in pairs:
        if not (name and equals and value.startswith("$")):
            raise ConfigError(f"--header takes Name=$VARIABLE, so that no secret stands in a command; got {name}=…")
    return {name: value for name, _, value in pairs} or None
