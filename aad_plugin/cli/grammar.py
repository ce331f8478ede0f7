"""How every ``aad`` command is spelled: underscores beside dashes, old names beside new, whole summaries, Ctrl-C."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# Names an option had before, by command; they are understood for one more release.
_OLD_NAMES: dict[str, dict[str, str]] = {
    "generate": {"--file": "--prompts", "--strategy": "--strategies"},
    "bench": {"--file": "--prompts", "--strategy": "--strategies", "--json": "--output"},
    "explain": {"--strategies": "--strategy"},
    "judge": {"--gamed": "--df-gamed", "--patience": "--patience-s"},
    "judge-check": {"--patience": "--patience-s"},
}

# What a killed command leaves, as its last line says.
_KEPT: dict[str, str] = {
    "eval": "what --model aad answered and a judge judged is kept; the same command goes on there",
    "generate": "the answers of finished strategies stand above or in --output; the same command starts anew",
    "run-batch": "nothing is kept; the same command starts anew",
    "distill": "training's last checkpoint and every answer so far are kept in --output; the same command goes on there",
    "rl": "training's last checkpoint and every answer so far are kept in --output; the same command goes on there",
    "iterate": "finished steps and answers are kept in --output; the same command goes on there",
    "synthesize": "every answer so far is kept in --output; the same command goes on there",
    "study": "every answer and score so far is kept in --output; the same command goes on there",
    "judge": "every verdict so far is kept in --output; the same command goes on and pays nothing twice",
    "judge-check": "with --output every ruling so far is kept, and the same command goes on there",
    "alpaca-eval generate": "every answer so far is kept in --output; the same command goes on there",
    "alpaca-eval annotate": "every verdict so far is kept in --output; the same command goes on and pays nothing twice",
}


def dashes(word: str) -> str:
    """Return an option's or a command's name with dashes for underscores."""
    return word.replace("_", "-")


def listed(given: Iterable[str]) -> list[str]:
    """Return the names of an option that is repeated, or takes several separated by commas."""
    names = [name.strip() for word in given for name in word.split(",")]
    return list(dict.fromkeys(name for name in names if name))


class Command(TyperCommand):
    """A command that also knows its options' old names, and says after Ctrl-C what is kept."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of a command line, old names as the new ones."""
        return super().parse_args(ctx, _renamed(args, _OLD_NAMES.get(_path(ctx), {})))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C ends it with one line and status 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupted:
            print(f"\ninterrupted: {_KEPT.get(_path(ctx), 'nothing was written')}", file=sys.stderr)
            raise typer.Exit(130) from interrupted


class Group(TyperGroup):
    """A group whose commands are listed with whole summaries."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, each with the first sentence of its help."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(10_000)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _path(ctx: Any) -> str:
    """Return a command's name with those of the groups above it, the root's left out: ``alpaca-eval generate``."""
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, ctx.info_name)
        ctx = ctx.parent
    return " ".join(names)


def _renamed(args: Sequence[str], old: dict[str, str]) -> list[str]:
    """Return the words with old names replaced, up to a bare ``--``."""
    words = list(args)
    for number, word in enumerate(words):
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if word.startswith("--") and dashes(name) in old:
            words[number] = f"{old[dashes(name)]}{equals}{value}"
    return words


_PARTS = "pair|pretrained|policy|reference|base|adapter|reference_adapter"
_VALUE = r"(?:<[^>]*>|'[^']*'|[^\s,;()]+)"
_RUN = re.compile(rf"(?<![\w-])(?<!--model-args )(?:{_PARTS})={_VALUE}(?:,(?:{_PARTS})={_VALUE})*")
_ONE = re.compile(rf"({_PARTS})=({_VALUE})")
_MODEL_ARG = re.compile(
    r"\b(pass|try|or) ((?:tokenizer|dtype|shortcuts|\w*trust_remote_code|use_safetensors)=[^\s,;)]+)"
)


def in_options(message: str) -> str:
    """Return an error's words in the syntax of ``aad``'s options: ``policy=X,reference=Y`` is --policy X --reference Y.

    Messages of the package name a pair as model_args do, which is what lm-eval and ``--model-args`` take.
    """

    def options(found: re.Match[str]) -> str:
        return " ".join(f"--{dashes(name)} {value}" for name, value in _ONE.findall(found[0]))

    told = _RUN.sub(options, message)
    told = _MODEL_ARG.sub(lambda found: f"{found[1]} --model-args {found[2]}", told)
    told = told.replace("chat=False", "--no-chat").replace("max_model_len=", "--max-model-len ")
    return re.sub(r"\b(lower|raise) max_new_tokens\b", r"\1 --max-new-tokens", told)
