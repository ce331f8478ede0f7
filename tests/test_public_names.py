"""``__all__`` is exactly what a module defines in public."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import aad_plugin

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    path
    for folder in ("aad_plugin", "judges")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py") and not path.name.startswith("_")
]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_all_lists_the_public_definitions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}
    lists = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    named = set(ast.literal_eval(lists[0])) if lists else set()
    if "cli" in path.parts and not lists:
        return  # a subcommand's module holds its command function and nothing others import
    assert defined <= named, f"public but not in __all__: {sorted(defined - named)}"
    constants = {name for name in named - defined if name.isupper() or name[0].isupper()}
    assert named - defined == constants, f"in __all__ but not defined: {sorted(named - defined - constants)}"


def test_the_packages_public_names_resolve():
    for name in aad_plugin.__all__:
        assert getattr(aad_plugin, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = aad_plugin.nope
