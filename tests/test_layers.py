"""Imports point down one list, lazy ones counted; `python -m tests.test_layers [TREE]` prints the map's figures.

A room is a folder of modules, or a module that lies flat in ``aad_plugin/``. ``__main__`` files are exempt: they start
what lies above them. ``aad_plugin/judges`` and ``aad_plugin/tasks`` are links to the folders beside the package.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# From the top down. Rooms of one line do not import each other.
LAYERS = """
    experiments
    aad_plugin
    cli _autoload
    training
    report alpaca synthesis study speed
    rivals
    harness
    explain
    engine
    pair
    pages
    judges.face
    judges.checks
    judges.kinds
    judges.asking
    judges.sitting
    judges.protocols
    judges.leagues
    judges.statistics
    judges
    sources
    demo
    tasks
    texts
    files decoding settings
    errors
"""
RANKS = {name: rank for rank, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}


class Import(NamedTuple):
    """One import of a module of this project: who imports, where it stands, and what."""

    module: str
    place: str
    target: str


def modules(root: Path) -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for folder in ("aad_plugin", "judges", "tasks", "experiments", "benchmarks"):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if parts and parts[:2] not in (("aad_plugin", "judges"), ("aad_plugin", "tasks")):  # the links
                found[".".join(("aad_plugin", *parts) if parts[0] in ("judges", "tasks") else parts)] = path
    return found


def imports(root: Path) -> Iterator[Import]:
    """Every import between modules of the project, whether at a module's top, in a function or for a type."""
    known = modules(root)
    for module, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in known else node.module for name in full]
            for target in dict.fromkeys(names):
                if target in known and target != module and not module.endswith("__main__"):
                    yield Import(module, f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}", target)


def layer(module: str) -> str:
    """The name in LAYERS under which a module stands; ``judges.face`` is the package's own, through which others ask."""
    if module == "aad_plugin.judges":
        return "judges.face"
    parts = module.removeprefix("aad_plugin.").split(".")
    two = ".".join(parts[:2])
    return two if two in RANKS else parts[0]


def room(module: str, known: dict[str, Path]) -> str:
    """The folder of a module, or itself where it lies flat in ``aad_plugin/``."""
    path = known[module]
    own = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return module if own == "aad_plugin" else own


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of more than one node that reach each other."""
    seen: dict[str, set[str]] = {}
    for start in edges:
        reached, stack = set(), [start]
        while stack:
            for target in edges.get(stack.pop(), ()):
                if target not in reached:
                    reached.add(target)
                    stack.append(target)
        seen[start] = reached
    groups = {frozenset({one} | {two for two in seen[one] if one in seen.get(two, ())}) for one in edges}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def chain(edges: dict[str, set[str]]) -> list[str]:
    """The longest chain of imports between rooms; of rooms in a circle each counts once, in one of its orders."""
    grouped = {name: tuple(group) for group in circles(edges) for name in group}
    longest: dict[tuple[str, ...], list[str]] = {}

    def below(group: tuple[str, ...]) -> list[str]:
        if group not in longest:
            under = {grouped.get(two, (two,)) for one in group for two in edges.get(one, ())} - {group}
            longest[group] = [*group, *max((below(one) for one in sorted(under)), key=len, default=[])]
        return longest[group]

    return max((below(grouped.get(name, (name,))) for name in sorted(edges)), key=len)


def upward(edges: dict[str, set[str]], weights: dict[tuple[str, str], int]) -> int:
    """Imports that run against the order of rooms that has fewest of them (found greedily: Eades, Lin, Smyth 1993)."""
    nodes = set(edges) | {two for targets in edges.values() for two in targets}
    first: list[str] = []
    last: list[str] = []
    left = set(nodes)
    while left:
        out = {n: sum(w for (a, b), w in weights.items() if a == n and b in left) for n in left}
        into = {n: sum(w for (a, b), w in weights.items() if b == n and a in left) for n in left}
        if sinks := sorted(n for n in left if not out[n]):
            last[:0] = sinks
            left -= set(sinks)
        elif sources := sorted(n for n in left if not into[n]):
            first += sources
            left -= set(sources)
        else:
            best = max(sorted(left), key=lambda n: out[n] - into[n])
            first.append(best)
            left.discard(best)
    place = {name: number for number, name in enumerate([*first, *last])}
    return sum(w for (a, b), w in weights.items() if place[a] > place[b])


def figures(root: Path) -> dict[str, object]:
    """The map in numbers, without regard to LAYERS, so that any two trees can be compared."""
    known = modules(root)
    between: dict[str, set[str]] = {}
    weights: dict[tuple[str, str], int] = {}
    files: dict[str, set[str]] = {}
    for one in {(found.module, found.target) for found in imports(root)}:
        files.setdefault(one[0], set()).add(one[1])
        rooms = room(one[0], known), room(one[1], known)
        if rooms[0] != rooms[1]:
            between.setdefault(rooms[0], set()).add(rooms[1])
            weights[rooms] = weights.get(rooms, 0) + 1
    return {
        "modules": len(known),
        "rooms": len({room(module, known) for module in known}),
        "longest chain of imports": len(chain(between)),
        "imports back up": upward(between, weights),
        "circles of rooms": len(circles(between)),
        "circles of modules": len(circles(files)),
        "modules flat in aad_plugin/": len(list((root / "aad_plugin").glob("*.py"))),
        "modules flat in judges/": len(list((root / "judges").glob("*.py"))),
    }


def test_imports_point_down():
    wrong = []
    for found in imports(ROOT):
        one, two = layer(found.module), layer(found.target)
        assert one in RANKS, f"{found.module}: no layer; put {one} into LAYERS of {Path(__file__).name}"
        assert two in RANKS, f"{found.target}: no layer; put {two} into LAYERS of {Path(__file__).name}"
        if one != two and RANKS[two] <= RANKS[one]:
            wrong.append(f"{found.place}: {found.module} imports {found.target}, but {one} does not stand above {two}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_in_a_circle():
    edges: dict[str, set[str]] = {}
    for found in imports(ROOT):
        edges.setdefault(found.module, set()).add(found.target)
    assert circles(edges) == []


def test_figures_of_the_map():
    found = figures(ROOT)
    print(found)
    assert found["imports back up"] == found["circles of rooms"] == found["circles of modules"] == 0
    assert found["modules flat in aad_plugin/"] <= 8
    assert found["modules flat in judges/"] <= 6


def test_an_import_that_points_up_is_named_with_its_line(tmp_path):
    for path, text in {
        "aad_plugin/__init__.py": "",
        "aad_plugin/texts/__init__.py": "",
        "aad_plugin/texts/one.py": "def late():\n    from aad_plugin.cli import two\n",
        "aad_plugin/cli/__init__.py": "",
        "aad_plugin/cli/two.py": "from aad_plugin.texts import one\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert ("aad_plugin.texts.one", "aad_plugin/texts/one.py:2", "aad_plugin.cli.two") in set(imports(tmp_path))
    assert figures(tmp_path)["circles of modules"] == figures(tmp_path)["imports back up"] == 1


if __name__ == "__main__":
    for name, value in figures(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT).items():
        print(f"{value:6} {name}")
