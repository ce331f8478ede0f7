"""What README and docs point to is there: make targets, modules, files, links. Their commands: `tests/documents/`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


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
