"""The ``aad`` command: subcommands, and one line instead of a traceback for a user's mistake."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from aad_plugin.cli.grammar import Command, Group, dashes, in_options
from aad_plugin.errors import AADError

# Subcommand → (module, function). Modules import heavy packages inside their functions.
_COMMANDS = {
    "eval": ("aad_plugin.cli.eval", "evaluate"),
    "report": ("aad_plugin.cli.report", "report"),
    "generate": ("aad_plugin.cli.generate", "generate"),
    "explain": ("aad_plugin.cli.explain", "explain"),
    "serve": ("aad_plugin.cli.serve", "serve"),
    "run-batch": ("aad_plugin.cli.run_batch", "run_batch"),
    "bench": ("aad_plugin.cli.bench", "bench"),
    "distill": ("aad_plugin.cli.distill", "distill"),
    "rl": ("aad_plugin.cli.rl", "rl"),
    "iterate": ("aad_plugin.cli.iterate", "iterate"),
    "synthesize": ("aad_plugin.cli.synthesize", "synthesize"),
    "study": ("aad_plugin.cli.study", "study"),
    "tasks": ("aad_plugin.cli.tasks", "tasks"),
    "judge": ("aad_plugin.cli.judge", "judge"),
    "league": ("aad_plugin.cli.league", "league"),
    "judge-check": ("aad_plugin.cli.judge_check", "judge_check"),
}
_GROUPS = {
    "pairs": "aad_plugin.cli.pairs",
    "judges": "aad_plugin.cli.judges",
    "alpaca-eval": "aad_plugin.cli.alpaca_eval",
}
_EXTRA: dict[Any, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
# lm-eval draws its own help; of vllm serve's arguments ours are the first.
_SETTINGS: dict[str, dict[Any, Any]] = {
    "eval": {**_EXTRA, "help_option_names": []},
    "serve": _EXTRA,
    "run-batch": _EXTRA,
}


def app() -> typer.Typer:
    """Build the command tree."""
    root = typer.Typer(
        help="Alignment-aware decoding: evaluate, decode, judge.", no_args_is_help=True, add_completion=False,
        pretty_exceptions_enable=False, rich_markup_mode=None, cls=Group,
        context_settings={"token_normalize_func": dashes},
    )  # fmt: skip
    root.callback()(_about)
    for name, (module, function) in _COMMANDS.items():
        settings = _SETTINGS.get(name)
        root.command(name, cls=Command, context_settings=settings)(getattr(importlib.import_module(module), function))
    for name, module in _GROUPS.items():
        root.add_typer(importlib.import_module(module).app, name=name)
    return root


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        names = ("aad_plugin", "lm_eval", "transformers", "torch")
        typer.echo(", ".join(f"{name} {metadata.version(name)}" for name in names))
        raise typer.Exit


_VERSION = typer.Option(
    "--version",
    is_eager=True,
    callback=_print_version,
    help="Print the versions of aad_plugin and its hosts, and exit.",
)


def _about(version: Annotated[bool, _VERSION] = False) -> None:
    pass  # the option's callback has done it


def run() -> None:
    """Entry point of ``aad``; exit status 1 after an error of the user's or of their surroundings."""
    # `aad eval` takes lm-eval's arguments, where a pair is named by model_args.
    with plain_errors(str if sys.argv[1:2] == ["eval"] else in_options):
        app()(prog_name="aad")


@contextmanager
def plain_errors(words: Callable[[str], str] = str) -> Iterator[None]:
    """End the process with one line and status 1 after an error of the user's or of their surroundings.

    Args:
        words: puts a message into the words of the command in use.
    """
    try:
        yield
    except AADError as e:
        from aad_plugin.texts.cleaning import printable  # servers' words may stand in a message

        print(f"error: {printable(words(str(e)))}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as e:
        if "home directory" not in str(e):  # pathlib's, of a path such as ~nobody/file
            raise
        print("error: a path begins with ~ and the name of no user here: write it in full", file=sys.stderr)
        sys.exit(1)
