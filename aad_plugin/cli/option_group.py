"""Options that several commands take as one: declared once, in place of one parameter of each command."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_type_hints

from aad_plugin.errors import ConfigError


def option(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """An option of a command, as typer reads it off a signature."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def options_of(group: type, *left_out: str) -> list[inspect.Parameter]:
    """The options that a dataclass's fields declare; one without a default must be given."""
    kinds = get_type_hints(group, include_extras=True)
    fields = [field for field in dataclasses.fields(group) if field.name not in left_out]
    empty, missing = inspect.Parameter.empty, dataclasses.MISSING
    return [option(one.name, kinds[one.name], empty if one.default is missing else one.default) for one in fields]


def refuse_unread(asked: Any, names: Sequence[str], form: str) -> None:
    """Refuse options that a form of a command does not read, where their values are not the defaults.

    Args:
        asked: a group of options. names: of those. form: of the command, in a user's words.
    Raises:
        ConfigError: names them.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(asked)}
    kinds = get_type_hints(type(asked), include_extras=True)
    _refuse([_flag(name, kinds[name]) for name in names if getattr(asked, name) != defaults[name]], form)


def refuse_given(values: Mapping[str, Any], form: str) -> None:
    """Refuse the options among these that were given, that is, whose values are not None.

    Args:
        values: by name. form: of the command, in a user's words.
    Raises:
        ConfigError: names them.
    """
    _refuse([f"--{name.replace('_', '-')}" for name in given_only(**values)], form)


def given_only(**values: Any) -> dict[str, Any]:
    """Return the options among these that were given; for the others what they are handed to has defaults of its own."""
    return {name: value for name, value in values.items() if value is not None}


def _refuse(given: Sequence[str], form: str) -> None:
    if given:
        raise ConfigError(f"{form} makes no use of {', '.join(given)}: leave {'it' if len(given) == 1 else 'them'} out")


def _flag(name: str, kind: Any) -> str:
    """An option as it is typed."""
    declared = []
    for one in getattr(kind, "__metadata__", ()):  # typer keeps the first name that an annotation gives as its default
        declared += [one.default, *(one.param_decls or ())]
    spelt = (flag for flag in declared if isinstance(flag, str) and flag.startswith("--"))
    return next(spelt, f"--{name.replace('_', '-')}")


def takes(**groups: type) -> Callable[[Callable[..., Any]], Any]:
    """Give a command the options of dataclasses, each in place of the parameter of that name."""

    def decorate(command: Callable[..., Any]) -> Any:
        for name, group in groups.items():
            command = with_options(command, name, options_of(group), partial(_made, group))
        return command

    return decorate


def _made(group: type, words: dict[str, Any], _: dict[str, Any]) -> Any:
    return group(**words)


def with_options(
    command: Callable[..., Any],
    parameter: str,
    options: Sequence[inspect.Parameter],
    build: Callable[[dict[str, Any], dict[str, Any]], Any],
) -> Callable[..., Any]:
    """Return a command that takes ``options`` where it had one parameter.

    Args:
        build: makes the parameter's value of what the options say; is also given the command's other arguments.
    """

    @functools.wraps(command)
    def wrapper(**given: Any) -> Any:
        words = {one.name: given.pop(one.name) for one in options}
        return command(**{parameter: build(words, given)}, **given)

    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for name, one in inspect.signature(command).parameters.items():
        own = one.replace(annotation=hints.get(name, one.annotation), kind=inspect.Parameter.KEYWORD_ONLY)
        parameters += options if name == parameter else [own]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {}
    del wrapper.__wrapped__
    return wrapper
