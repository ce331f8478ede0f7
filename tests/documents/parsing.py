"""What the real parser behind a documented command says of it; nothing is run."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable
from typing import Any
from unittest import mock

from typer.main import get_command

from aad_plugin.cli.grammar import _OLD_NAMES, dashes
from aad_plugin.cli.main import app
from tests.documents.reading import ROOT, Command


class Wrong(AssertionError):
    """A documented command that its program would refuse."""


class _Parsed(Exception):
    """A parser has read everything."""


def check(command: Command) -> None:
    """Raise `Wrong` unless the program's own parser takes the command; of a form, its names alone are looked up."""
    try:
        text = re.sub(r"^(?:[A-Z_]+=\S+ +)*", "", command.text)
        if command.is_form:
            text = re.sub(r"(?:^|(?<= ))\[([^\]]*)\]", r"\1", text).replace("…", " ")
        program, *words = shlex.split(text)
        _PARSERS[program](words, command)
    except Wrong as e:
        raise Wrong(f"{command.place}: {command.text}\n    {e}") from e


def _aad(words: list[str], command: Command) -> None:
    found: Any = get_command(app())
    context = found.make_context("aad", [], resilient_parsing=True)
    rest, taken = list(words), []
    while rest and hasattr(found, "commands"):
        name = dashes(rest[0])
        if name not in found.commands:
            raise Wrong(f"aad has no command {' '.join([*taken, rest[0]])}; it has {', '.join(found.commands)}")
        found = found.commands[name]
        taken.append(rest.pop(0))
        context = context.__class__(found, info_name=name, parent=context)
    if hasattr(found, "commands") or (command.is_name and not rest):
        return
    old = _OLD_NAMES.get(" ".join(taken), {})
    for word in rest:
        name = dashes(word.partition("=")[0])
        if word.startswith("--") and name in old:
            raise Wrong(f"{name} is an old name: write {old[name]}")
    if taken[0] == "eval":
        return _lm_eval(rest, command)
    if command.is_form:
        return _known_options(found, rest, is_open=taken[0] in ("serve", "run-batch"))
    try:
        made = found.make_context(taken[-1], rest, parent=context.parent)
    except Exception as e:
        raise Wrong(f"aad refuses it: {getattr(e, 'message', None) or e!r}") from e
    if made.params.get("model_args"):
        _model_args(made.params["model_args"])


def _known_options(found: Any, words: list[str], is_open: bool) -> None:
    known = {name for one in found.params for name in (*one.opts, *one.secondary_opts)}
    for word in words:
        name = dashes(word.partition("=")[0])
        if word.startswith("--") and name not in known and not is_open:
            raise Wrong(f"aad has no option {name} there")


def _lm_eval(words: list[str], command: Command) -> None:
    from lm_eval._cli.harness import HarnessCLI

    if words[:1] not in (["run"], ["ls"], ["validate"]):
        words = ["run", *words]
    parser = HarnessCLI()._parser
    if command.is_form:  # of a JSON object with a part left out nothing is read
        words = [re.sub(r"\{.*\s\s?,.*\}|\{[^}]*:\s*\}", "{}", word) for word in words]
    if command.is_form and words[-1].startswith("--"):
        words.pop()  # its value is left out
    given = _argparse(lambda: parser.parse_args(words))
    if getattr(given, "model", None) in ("aad", "aad-vllm") and given.model_args:
        _model_args(given.model_args, vllm=given.model == "aad-vllm")


def _model_args(given: Any, vllm: bool = False) -> None:
    """Our own reading of model_args: names, ranges, a pair that can be told."""
    from lm_eval.models.huggingface import HFLM

    from aad_plugin.errors import AADError
    from aad_plugin.harness.arguments import PairArguments
    from aad_plugin.sources.arguments import parse_model_args
    from aad_plugin.sources.known_options import refuse_unknown

    args = dict(parse_model_args(given) if isinstance(given, str) else given)
    if vllm:
        known = ("pair", "policy", "reference", "adapter", "guide", "guide_reference", "guide_scale", "alpha", "dtype")
        args = {name: args[name] for name in known if name in args}
    try:
        parsed = PairArguments.parse(None, None, {"pair": "demo", **args} if not _names_a_pair(args) else args)
        names = HFLM.__init__.__code__.co_varnames
        refuse_unknown(parsed.hflm, [*names, "merge_adapters"], mock.Mock(to_dict=lambda: {}))
    except AADError as e:
        raise Wrong(f"model_args: {e}") from e


def _names_a_pair(args: dict[str, Any]) -> bool:
    return any(args.get(name) for name in ("pair", "pretrained", "policy", "reference", "base", "adapter"))


def _argparse(parse: Callable[[], Any]) -> Any:
    """What argparse returns; its refusal as `Wrong`."""
    said: list[str] = []

    def refuse(self: argparse.ArgumentParser, message: str) -> None:
        said.append(message)
        raise SystemExit(2)

    with mock.patch.object(argparse.ArgumentParser, "error", refuse):
        try:
            return parse()
        except SystemExit as e:
            raise Wrong(f"its parser says: {' '.join(said) or e}") from e


def _python(words: list[str], command: Command) -> None:
    if words[:1] != ["-m"]:
        return  # an expression, or python's own options
    module, rest = words[1], words[2:]
    place = ROOT / module.replace(".", "/")
    path = next((one for one in (place.with_suffix(".py"), place / "__main__.py") if one.is_file()), None)
    if path is None:
        if module.split(".")[0] in ("experiments", "tests", "aad_plugin"):
            raise Wrong(f"there is no module {module}")
        importlib.import_module(module)
        return
    source = path.read_text(encoding="utf-8")
    if module == "aad_plugin.cli":
        return _aad(rest, command)
    if "typer" in source:
        return _typer_module(module, rest)
    if "ArgumentParser(" in source:
        return _argparse_module(module, rest)
    read = re.findall(r"sys\.argv\[(?:1:)?(\d*)", source)
    if rest and not read:
        raise Wrong(f"{module} reads no arguments")
    if not ast.parse(source).body:
        raise Wrong(f"{module} is empty")


def _argparse_module(module: str, rest: list[str]) -> None:
    """Run the module as a program up to the end of its parser's work."""
    true = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        true(self, args, namespace)
        raise _Parsed

    before = sys.modules.pop(module, None)
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse),
        mock.patch.object(sys, "argv", [module, *rest]),
    ):
        try:
            _argparse(lambda: runpy.run_module(module, run_name="__main__", alter_sys=False))
        except _Parsed:
            return
        finally:
            if before is not None:
                sys.modules[module] = before
    raise Wrong(f"{module} parsed nothing")


def _typer_module(module: str, rest: list[str]) -> None:
    import typer

    name = f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module
    one = typer.Typer(add_completion=False)
    one.command()(importlib.import_module(name).main)
    try:
        get_command(one).make_context(module, rest)
    except Exception as e:
        raise Wrong(f"{module} refuses it: {e!r}") from e


def _pip(words: list[str], command: Command) -> None:
    from pip._internal.commands import create_command

    if words[:1] not in (["install"], ["uninstall"]):
        raise Wrong("of pip, documents use install and uninstall")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    with mock.patch.dict("os.environ", {"PIP_CONFIG_FILE": "/dev/null"}):
        _, named = create_command(words[0]).parse_args(words[1:])
    for one in named:
        wanted = re.search(r"\[([\w,-]+)\]", one)
        unknown = sorted(set(wanted[1].split(",")) - set(extras)) if wanted and one[0] in ".a" else []
        if unknown:
            raise Wrong(f"no extra {', '.join(unknown)}; pyproject.toml has {', '.join(extras)}")


def _make(words: list[str], command: Command) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    unknown = [word for word in words if "=" not in word and word not in targets]
    if unknown:
        raise Wrong(f"the Makefile has no target {unknown[0]}")


def _pytest(words: list[str], command: Command) -> None:
    """Files are there, and -k and -m choose at least one of their tests."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("paths", nargs="*")
    parser.add_argument("-k", default="")
    parser.add_argument("-m", default="")
    parser.add_argument("-s", action="store_true")
    given = _argparse(lambda: parser.parse_args(words))
    sources = []
    for path in given.paths:
        place = ROOT / path.partition("::")[0]
        files = sorted(place.rglob("test_*.py")) if place.is_dir() else [place]
        if not files or not all(file.is_file() for file in files):
            raise Wrong(f"there is no {path}")
        sources += [file.read_text(encoding="utf-8") for file in files]
    text = "\n".join(sources)
    tests = re.findall(r"^\s*(?:async )?def (test_\w+)", text, re.MULTILINE)
    for word in re.findall(r"\w+", re.sub(r"\b(?:not|and|or)\b", " ", given.k)):
        if not any(word in name for name in tests) and word not in text:
            raise Wrong(f"-k {word} chooses no test")
    for mark in re.findall(r"\w+", re.sub(r"\bnot \w+|\b(?:and|or)\b", " ", given.m)):
        if f"pytest.mark.{mark}" not in text:
            raise Wrong(f"-m {mark} chooses no test")


def _elsewhere(words: list[str], command: Command) -> None:
    """vLLM's parsers are asked where vLLM is, TRL's where it takes seconds (test_documented_commands.py)."""


_PARSERS: dict[str, Callable[[list[str], Command], None]] = {
    "aad": _aad, "lm_eval": _lm_eval, "python": _python, "pip": _pip, "make": _make, "pytest": _pytest,
    "vllm": _elsewhere, "trl": _elsewhere, "alpaca_eval": _elsewhere,
}  # fmt: skip
