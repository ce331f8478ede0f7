"""How a command line names a pair, shared by every subcommand that reads one.

@names_a_pair
def command(named: NamedPair, …)      takes --pair, or --policy --reference --adapter --base --reference-adapter,
                                      and --model-args for everything else
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from aad_plugin.cli.option_group import option, with_options
from aad_plugin.errors import ConfigError
from aad_plugin.settings import SETTING_NAMES, DecodingSettings
from aad_plugin.sources.arguments import parse_model_args, take_settings, take_source
from aad_plugin.sources.guides import check_guided
from aad_plugin.sources.parts import PART_NAMES
from aad_plugin.sources.presets import PRESETS

_PANEL = "The pair"
_HELP = {
    "policy": "The tuned model, a full checkpoint; with --reference.",
    "reference": "The model it was tuned from; with --policy or --adapter.",
    "adapter": "LoRA of the policy, on --reference or --base.",
    "base": "The model under two adapters; with --adapter and --reference-adapter.",
    "reference_adapter": "LoRA of the reference, on --base.",
    "guide": "Rewards tokens with --strategy guided: a model, an adapter, a pair or reward:<model>; several as A+B.",
    "guide_reference": "What each guide is measured against; none for its own log-probability.",
}


def _named_settings(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name in SETTING_NAMES}


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _option(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=_PANEL)


_ARGUMENT = Annotated[
    str | None, typer.Argument(metavar="PAIR", help="Preset, pair folder or TRL output folder; or --pair.")
]
_OPTIONS: dict[str, Any] = {
    "pair": Annotated[
        str | None, _option("Preset (aad pairs list), pair folder or TRL output folder; or the parts:", "--pair")
    ],
    **{name: Annotated[str | None, _option(text)] for name, text in _HELP.items()},
    "model_args": Annotated[
        str, _option("Everything else, as lm-eval takes it: dtype=bfloat16,device=cuda or a JSON object.")
    ],
}


@dataclass(frozen=True)
class NamedPair:
    """What a command line says of its pair.

    Attributes:
        arguments: model_args; the pair, its parts and its options by name.
    """

    arguments: dict[str, Any]

    @property
    def title(self) -> str:
        """The pair in a few words."""
        named = [str(self.arguments[part]) for part in ("pair", "pretrained", *PART_NAMES) if self.arguments.get(part)]
        return " + ".join(named)

    def __bool__(self) -> bool:
        """Whether a pair is named at all."""
        return bool(self.title)

    def check(self, **settings: Any) -> None:
        """Refuse a wrong name, a setting out of range or a guide that is missing; reads no weights, imports no torch.

        Raises:
            ConfigError: what is wrong, as loading would say it seconds later.
        """
        given = dict(self.arguments)
        asked = take_settings(given, {}).override(**settings)
        has_parts = any(given.get(part) for part in PART_NAMES)
        if not has_parts and (given.get("pair") or given.get("pretrained")) in PRESETS:
            # An embedded pair's parts may have to be fetched first, and so may those of a guide that is one.
            if not given.get("guide"):
                check_guided(asked, 0, False)
            return
        source = take_source(given)
        own = DecodingSettings().override(**{**source.settings, **_named_settings(self.arguments), **_given(settings)})
        check_guided(own, len(source.guides), source.is_alone)

    def settings(self, **settings: Any) -> DecodingSettings:
        """Return how the pair decodes: as its folder says, then the model_args, then what is given here; fetches a preset's
        parts."""
        given = dict(self.arguments)
        source = take_source(given)
        return take_settings(given, source.settings).override(**settings)

    def load(self, **settings: Any) -> Any:
        """Return the :class:`aad_plugin.AlignedPair`, with those of the settings that are not None."""
        self.check(**settings)
        from aad_plugin.pair.model import load_pair

        given = {name: value for name, value in settings.items() if value is not None}
        return load_pair(**{**self.arguments, **given})

    def but(self, **arguments: Any) -> NamedPair:
        """Return the same pair with other options."""
        return NamedPair({**self.arguments, **arguments})


def names_a_pair(command: Callable[..., Any] | None = None, *, positional: bool = False) -> Any:
    """Give a command the options that name a pair, in place of its parameter ``named``.

    Args:
        positional: the pair may also stand without an option, as the command's argument ``pair``.
    """
    if command is None:
        return functools.partial(names_a_pair, positional=positional)
    place = [option("place", _ARGUMENT, None)] if positional else []
    options = [option(name, kind, "" if name == "model_args" else None) for name, kind in _OPTIONS.items()]

    def build(words: dict[str, Any], given: dict[str, Any]) -> NamedPair:
        alone = words.pop("place", None)
        if alone is not None and alone.startswith("-"):  # no pair was given, an option of the engine stood in its place
            given["context"].args.insert(0, alone)
            alone = None
        return _named(alone, **words)

    return with_options(command, "named", [*place, *options], build)


def _named(alone: str | None, *, pair: str | None, model_args: str, **parts: str | None) -> NamedPair:
    if alone and pair and alone != pair:
        raise ConfigError(f"the pair is named twice: {alone!r} and --pair {pair}; leave one of them out")
    arguments = parse_model_args(model_args)
    for name, value in {"pair": pair or alone, **parts}.items():
        if value is None:
            continue
        if arguments.get(name) not in (None, value):
            raise ConfigError(
                f"--{name.replace('_', '-')} {value} and --model-args {name}={arguments[name]} disagree: leave one out"
            )
        arguments[name] = value
    return NamedPair(arguments)
