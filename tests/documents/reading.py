"""Commands that README and docs show, with what the document says they need.

A command stands in a block of code (fenced or indented) or between backticks. What it needs stands beside it:

    aad serve demo --port 8000        # needs vLLM
    `python -m experiments.dtypes` (needs minutes)

A line of comment alone in a block speaks for the commands below it, up to the next blank line:  # needs a key
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = ("aad", "lm_eval", "alpaca_eval", "python", "pip", "make", "pytest", "vllm", "trl")
NEEDS = (
    "a GPU", "a key", "the hub", "the network", "vLLM", "a server", "minutes", "hours", "days", "your own",
)  # fmt: skip

_VARIABLES = r"(?:[A-Z_]+=\S+ +)*"
_COMMAND = re.compile(rf"{_VARIABLES}(?:{'|'.join(PROGRAMS)})(?= )")
_NEEDS = re.compile(r"\bneeds ([^#`)]+)")
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?: ?\(needs ([^)]+)\))?")


def documents() -> list[Path]:
    """README, docs and every README beside tasks, judges, evaluators, the demo pair and experiments."""
    found = {ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "experiments" / "README.md"}
    for folder in ("docs", "tasks", "judges"):
        found.update((ROOT / folder).rglob("*.md"))
    found.update(path for path in (ROOT / "aad_plugin").rglob("README.md") if not path.parts[-2] == "vendor")
    ours = (path for path in found if "judges" not in path.relative_to(ROOT).parts[1:2])  # aad_plugin/judges is a link
    return sorted(path for path in ours if not {"aad_plugin", "tasks"} <= set(path.relative_to(ROOT).parts))


@dataclass(frozen=True)
class Command:
    """One command as a document shows it.

    Attributes:
        file: the document, from the root. line: where the command begins.
        text: the command on one line, without its comment; single spaces outside quotes.
        needs: what the document says beside it, or "".
        is_inline: it stands between backticks in prose or in a table.
    """

    file: str
    line: int
    text: str
    needs: str
    is_inline: bool

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def is_name(self) -> bool:
        """Prose that only names a command: `aad judge`, `make demo`, `vllm serve`."""
        return self.is_inline and bool(
            re.fullmatch(r"(?:aad|lm_eval|vllm|trl|make|alpaca_eval)(?: [a-z][a-z-]*){1,2}", self.text)
        )

    @property
    def is_form(self) -> bool:
        """A form with parts left out (…) or optional ([…]): nothing that can be run as it stands."""
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", self.text)
        return "…" in self.text or bool(re.search(r"(?:^| )\[", bare)) or " | " in bare


def commands(path: Path) -> list[Command]:
    """Return a document's commands in their order."""
    name = str(path.relative_to(ROOT))
    found: list[Command] = []
    fenced, said, pending, start = False, "", "", 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("```"):
            fenced, said = not fenced, ""
            continue
        if not (fenced or line.startswith("    ") or pending):
            said = ""
            found += _inline(name, number, line)
            continue
        if not stripped:
            said = ""
        elif stripped.startswith("#"):
            needed = _NEEDS.search(stripped)
            said = needed[1].strip() if needed else said
        else:
            start = start if pending else number
            pending += " " + stripped.removesuffix("\\").strip()
            if stripped.endswith("\\"):
                continue
            found += _block(name, start, pending.strip(), said)
        pending = ""
    return found


def _block(name: str, line: int, text: str, said: str) -> list[Command]:
    code, _, comment = text.partition("  #") if "  #" in text else text.partition(" # ")
    needed = _NEEDS.search(comment)
    needs = needed[1].strip() if needed else said
    parts = re.split(rf" \| (?=(?:{'|'.join(PROGRAMS)}) )", code)
    return [Command(name, line, _single(part), needs, False) for part in parts if _COMMAND.match(part)]


def _inline(name: str, line: int, text: str) -> list[Command]:
    found = _INLINE.finditer(text)
    return [Command(name, line, _single(one[1]), one[2] or "", True) for one in found if _COMMAND.match(one[1])]


def _single(text: str) -> str:
    """One space where there are several, outside quotes."""
    return re.sub(r"""("[^"]*"|'[^']*')|\s+""", lambda one: one[1] or " ", text.strip())
