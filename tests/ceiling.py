"""Raise a library's ceiling in pyproject.toml, and our pin of it.   python -m tests.ceiling transformers 5.25.0"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def raised(text: str, library: str, version: str) -> str:
    """Return a pyproject whose ceiling of ``library`` admits ``version``: the next minor release is the first excluded."""
    major, minor = (int(part) for part in version.split(".")[:2])
    changed, count = re.subn(
        rf'("{re.escape(library)}>=[^",]+),<[^"]+"', rf'\1,<{major}.{minor + 1}"', text, flags=re.IGNORECASE
    )
    if not count:
        raise SystemExit(f'pyproject.toml has no ceiling of {library!r}: expected a line such as "{library}>=1.0,<1.2"')
    return changed


def pinned(text: str, library: str, version: str) -> str:
    """Return constraints in which ``library``, where it is pinned at all, stands at ``version``."""
    name = re.sub("[-_]", "[-_]", library)
    return re.sub(rf"^({name})==.*$", rf"\1=={version}", text, flags=re.MULTILINE)


def main(library: str, version: str) -> None:
    for file, change in (("pyproject.toml", raised), ("constraints.txt", pinned)):
        path = ROOT / file
        path.write_text(change(path.read_text("utf-8"), library, version), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
