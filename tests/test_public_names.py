"""``__all__`` stands in the faces of packages alone and names what they give; no other module only re-exports."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import aad_plugin

ROOT = Path(__file__).resolve().parents[1]
FACES = {"aad_plugin": "aad_plugin/__init__.py", "aad_plugin.judges": "judges/__init__.py"}
MODULES = [
    path
    for folder in ("aad_plugin", "judges", "tasks", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if str(path.relative_to(ROOT)) not in FACES.values()
]


def test_only_faces_list_names():
    listing = [path for path in MODULES if "__all__" in path.read_text(encoding="utf-8")]
    assert listing == [], "__all__ belongs to the faces of packages; a leading underscore makes a name private"


def test_no_other_module_only_re_exports():
    for path in MODULES:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        own = [node for node in body if not isinstance(node, (ast.Import, ast.ImportFrom, ast.Expr))]
        assert (
            own
            or not any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)
            or (path.name == "__main__.py")
        ), f"{path.relative_to(ROOT)} only re-exports"


@pytest.mark.parametrize("face", FACES)
def test_the_public_names_resolve(face):
    module = importlib.import_module(face)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = aad_plugin.nope
