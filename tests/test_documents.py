"""What README and docs tell a reader to type is there: every ``aad`` command with its options, make targets, files, links.

The commands themselves need models, servers or hours; that their words are understood is seen without running them.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from aad_plugin.cli.grammar import _OLD_NAMES, dashes
from aad_plugin.cli.main import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
FOREIGN = {"serve", "run-batch", "eval"}  # further arguments are another program's


def commands(text: str) -> list[str]:
    """Lines of code that begin with ``aad``, continued lines joined, comments and alternatives behind | left out."""
    blocks = [found[1] for found in re.finditer(r"```[a-z]*\n(.*?)```", text, re.DOTALL)]
    blocks += re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().split("  #")[0].rstrip() for line in lines if re.match(r"\s*(?:\S+=\S+ )*aad [a-z]", line)]


def known(words: list[str]):
    """The command a line names and what is left of it."""
    command = get_command(app())
    while words and hasattr(command, "commands"):
        name = dashes(words[0])
        if name not in command.commands:
            return None, words
        command, words = command.commands[name], words[1:]
    return command, words


LINES = [(path.name, line) for path in DOCUMENTS for line in commands(path.read_text(encoding="utf-8"))]


def test_there_is_something_to_check():
    assert len(LINES) > 30


@pytest.mark.parametrize(("file", "line"), LINES)
def test_a_documented_command_and_its_options_are_there(file, line):
    for part in re.split(r" \| (?=aad )", line):
        text = re.sub(r"^(?:\S+=\S+ )*aad ", "", part.replace("…", " ")).replace("[", " ").replace("]", " ")
        words = shlex.split(text, comments=True)
        command, rest = known(words)
        assert command is not None, f"{file}: no command {words[:2]}"
        if hasattr(command, "commands") or words[0] in FOREIGN:
            continue
        options = {name for one in command.params for name in one.opts}
        old = _OLD_NAMES.get(" ".join(words[: len(words) - len(rest)]), {})
        for word in rest:
            name = dashes(word.split("=")[0])
            if word.startswith("--"):
                assert name in options, f"{file}: {name} in {line!r}"
                assert name not in old, f"{file}: {name} has another name now, in {line!r}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_modules_files_and_links_are_there(path):
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    missing = [
        name for name in re.findall(r"(?:^    |`)make ([a-z][a-z-]*)", text, re.MULTILINE) if name not in targets
    ]
    for module in re.findall(r"python -m ((?:experiments|tests|aad_plugin)[\w.]*)", text):
        place = ROOT / module.replace(".", "/")
        if not (place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()):
            missing.append(module)
    for link in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text):
        if not (path.parent / link).exists():
            missing.append(link)
    for name in re.findall(r"`((?:docs|aad_plugin|tests|judges|tasks|experiments)/[\w./@-]+\.(?:md|py))`", text):
        if not (ROOT / name).exists():
            missing.append(name)
    assert missing == []
