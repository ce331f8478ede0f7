"""Does a release that cannot run here still have every name we import and every parameter we pass? Read, not run.

    python -m tests.upstream_names vllm vllm-0.33.0-….whl        # a wheel, or a folder that holds the package

Our files are parsed for what they import from the package (``from p.x import y``, ``p.x.y`` after ``import p``) and for the
keywords they pass to those names; the release is parsed for their definitions. What leads to compiled code without a
stub is listed as not resolved. The exit code is 1 if a name or a keyword is missing.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("aad_plugin", "judges", "tasks", "benchmarks", "experiments")
# Methods and fields that we use on objects the release hands us, and arguments we pass by string; no import names them.
# A class may have moved: places are separated by "|".
USED: dict[str, dict[str, tuple[str, ...]]] = {
    "vllm": {
        "vllm.v1.worker.gpu_model_runner:GPUModelRunner": ("get_model", "input_batch", "requests"),
        "vllm.v1.worker.gpu_input_batch:InputBatch": ("req_ids", "prev_sampled_token_ids", "prev_req_id_to_index"),
        "vllm.v1.worker.gpu_input_batch:CachedRequestState": ("sampling_params", "output_token_ids"),
        "vllm.entrypoints.llm:LLM": ("generate", "collective_rpc", "get_tokenizer", "llm_engine"),
        "vllm.engine.arg_utils:EngineArgs": (
            "hf_overrides", "worker_extension_cls", "generation_config", "override_generation_config", "tokenizer",
        ),
        "vllm.entrypoints.common.cli_args:FrontendArgs|vllm.entrypoints.launchers.cli_args:FrontendArgs": ("middleware",),
        "vllm.v1.engine.llm_engine:LLMEngine": ("add_request", "has_unfinished_requests", "step", "model_config"),
        "vllm.sampling_params:SamplingParams": (
            "extra_args", "structured_outputs", "min_tokens", "bad_words", "logit_bias", "allowed_token_ids",
        ),
    },
}  # fmt: skip


@dataclass
class Definition:
    """One name of the release: where, and what it takes; parameters is None where that cannot be read."""

    module: str
    node: ast.AST | None
    parameters: set[str] | None = None
    takes_any: bool = False


@dataclass
class Findings:
    """checked: names and name(keyword)s found; missing: those that are not there; unresolved: those nobody can read."""

    checked: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    unresolved: set[str] = field(default_factory=set)


class Release:
    """A package on disk, parsed on demand."""

    def __init__(self, folder: Path, package: str) -> None:
        self.folder, self.package = folder, package
        self._trees: dict[str, list[ast.Module]] = {}
        self._found: dict[tuple[str, str], list[Definition] | None] = {}

    def trees(self, module: str) -> list[ast.Module]:
        """Every file of a module: its source and its stub."""
        if module not in self._trees:
            path = self.folder.joinpath(*module.split("."))
            files = [path.with_suffix(end) for end in (".py", ".pyi")]
            files += [path / "__init__.py", path / "__init__.pyi"]
            if module == f"{self.package}._C":
                files.append(path / "_VariableFunctions.pyi")
            self._trees[module] = [ast.parse(file.read_text("utf-8")) for file in files if file.is_file()]
        return self._trees[module]

    def is_module(self, name: str) -> bool:
        return bool(self.trees(name)) or self.folder.joinpath(*name.split(".")).is_dir()

    def find(self, module: str, name: str) -> list[Definition] | None:
        """Every definition of a name of a module, through re-exports; None where there is none."""
        if (module, name) not in self._found:
            self._found[module, name] = self._find(module, name, frozenset())
        return self._found[module, name]

    def _find(self, module: str, name: str, seen: frozenset[tuple[str, str]]) -> list[Definition] | None:
        if (module, name) in seen:
            return None
        seen |= {(module, name)}
        if self.is_module(f"{module}.{name}"):
            return [Definition(f"{module}.{name}", None)]
        found: list[Definition] = []
        for tree in self.trees(module):
            for node in _statements(tree):
                found += self._defined(module, node, name, seen)
        return found or None

    def _defined(self, module: str, node: ast.stmt, name: str, seen: frozenset[tuple[str, str]]) -> list[Definition]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            return [Definition(module, node)]
        if isinstance(node, ast.ImportFrom):
            source = self._absolute(module, node)
            for alias in node.names:
                if (alias.asname or alias.name) == name or alias.name == "*":
                    if not source.startswith(self.package):
                        return [Definition(source, None)] if alias.name != "*" else []
                    return self._find(source, alias.name if alias.name != "*" else name, seen) or []
        if isinstance(node, ast.Import) and any((a.asname or a.name.split(".")[0]) == name for a in node.names):
            return [Definition(module, None)]
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and target.id == name:
                return [Definition(module, node)]
            # A table of lazily imported names, as in `{"LLM": ".entrypoints.llm:LLM"}`.
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                for key, value in zip(node.value.keys, node.value.values, strict=True):
                    if _text(key) == name and ":" in _text(value):
                        where, _, what = _text(value).partition(":")
                        return self._find(f"{module}{where}" if where.startswith(".") else where, what, seen) or []
        return []

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        is_package = (self.folder.joinpath(*parts) / "__init__.py").is_file()
        parts = parts[: len(parts) - node.level + is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def signature(self, definition: Definition) -> Definition:
        """Fill in what a definition can be called with."""
        node = definition.node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            definition.parameters, definition.takes_any = _parameters(node)
        elif isinstance(node, ast.ClassDef):
            definition.parameters, definition.takes_any = self._class_parameters(definition.module, node)
        return definition

    def _class_parameters(self, module: str, node: ast.ClassDef) -> tuple[set[str] | None, bool]:
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name in ("__init__", "__new__"):
                return _parameters(statement)
        names = {s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)}
        for base in self.bases(module, node):
            inherited, takes_any = self._class_parameters(base.module, base.node)  # type: ignore[arg-type]
            if inherited is None or takes_any:
                return None, takes_any
            names |= inherited
        return names or None, False

    def bases(self, module: str, node: ast.ClassDef) -> Iterator[Definition]:
        """The classes of this package that a class inherits from directly."""
        for base in node.bases:
            name = base.value if isinstance(base, ast.Subscript) else base
            if isinstance(name, ast.Name):
                for found in self.find(module, name.id) or []:
                    if isinstance(found.node, ast.ClassDef):
                        yield found

    def members(self, module: str, node: ast.ClassDef) -> set[str]:
        """Methods, fields and assigned attributes of a class and of its bases in this package."""
        names: set[str] = set()
        for child in ast.walk(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(child.name)
            elif isinstance(child, ast.AnnAssign | ast.Assign):
                for target in child.targets if isinstance(child, ast.Assign) else [child.target]:
                    names.add(target.id if isinstance(target, ast.Name) else getattr(target, "attr", ""))
        for base in self.bases(module, node):
            names |= self.members(base.module, base.node)  # type: ignore[arg-type]
        return names


def check(package: str, folder: Path, files: list[Path]) -> Findings:
    """Hold our files against a release in ``folder``."""
    release, findings = Release(folder, package), Findings()
    if not release.is_module(package):
        raise SystemExit(f"no package {package!r} in {folder}")
    for file in files:
        _check_file(release, ast.parse(file.read_text("utf-8")), findings)
    for where, members in USED.get(package, {}).items() if files else ():
        places = [place.split(":") for place in where.split("|")]
        owners = [d for module, name in places for d in release.find(module, name) or []]
        found = [d for d in owners if isinstance(d.node, ast.ClassDef)]
        known = set().union(*(release.members(d.module, d.node) for d in found)) if found else set()  # type: ignore[arg-type]
        for member in members:
            (findings.checked if member in known else findings.missing).add(f"{where}.{member}")
    return findings


def _check_file(release: Release, tree: ast.Module, findings: Findings) -> None:
    names: dict[str, tuple[str, str | None]] = {}  # our name -> (module, name in it)
    instead = _alternatives(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and _belongs(node.module, release.package):
            for alias in node.names:
                places = [str(node.module), *instead.get(node, ())]
                place = next((place for place in places if release.find(place, alias.name)), places[0])
                names[alias.asname or alias.name] = (place, alias.name)
                _found(release, place, alias.name, findings)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if _belongs(alias.name, release.package):
                    names[alias.asname or alias.name.split(".")[0]] = (
                        (alias.asname and alias.name) or release.package,
                        None,
                    )
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _resolve(release, node, names, findings)
        elif isinstance(node, ast.Call):
            _check_call(release, node, names, findings)
        elif isinstance(node, ast.ClassDef):
            _check_bases(release, node, names, findings)


def _check_bases(release: Release, node: ast.ClassDef, names: dict, findings: Findings) -> None:
    """A class of ours over one of the release's calls only what that one has, and takes what its methods are given."""
    for base in node.bases:
        for owner in _resolve(release, base, names, Findings()) or []:
            if isinstance(owner.node, ast.ClassDef):
                known = release.members(owner.module, owner.node)
                for call in ast.walk(node):
                    if isinstance(call, ast.Attribute) and ast.unparse(call.value) == "super()":
                        full = f"{owner.module}.{owner.node.name}.{call.attr}"
                        (findings.checked if call.attr in known else findings.missing).add(full)
                theirs = {m.name: m for m in owner.node.body if isinstance(m, ast.FunctionDef)}
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name in theirs and not method.args.vararg:
                        full = f"{owner.module}.{owner.node.name}.{method.name}(…)"
                        given = theirs[method.name].args
                        # We call a constructor ourselves, with what it needs.
                        spared = len(given.defaults) if method.name == "__init__" else 0
                        fits = len(method.args.args) >= len(given.args) - spared
                        (findings.checked if fits else findings.missing).add(full)


def _alternatives(tree: ast.Module) -> dict[ast.ImportFrom, list[str]]:
    """For an import in a ``try``: the modules from which its other branches import the same names."""
    found: dict[ast.ImportFrom, list[str]] = {}
    for block in ast.walk(tree):
        if isinstance(block, ast.Try):
            branches = [block.body, *(handler.body for handler in block.handlers)]
            imports = [node for branch in branches for node in branch if isinstance(node, ast.ImportFrom)]
            for node in imports:
                asked = {alias.name for alias in node.names}
                same = [other for other in imports if other is not node and {a.name for a in other.names} == asked]
                found[node] = [str(other.module) for other in same]
    return found


def _resolve(release: Release, node: ast.expr, names: dict, findings: Findings) -> list[Definition] | None:
    """The definitions that an expression names, None for anything else; what is missing is noted."""
    if isinstance(node, ast.Name) and node.id in names:
        module, name = names[node.id]
        return [Definition(module, None)] if name is None else release.find(module, name)
    if isinstance(node, ast.Attribute):
        for owner in _resolve(release, node.value, names, findings) or []:
            if owner.node is None and release.is_module(owner.module):
                return _found(release, owner.module, node.attr, findings)
            if isinstance(owner.node, ast.ClassDef):
                full = f"{owner.module}.{owner.node.name}.{node.attr}"
                known = node.attr in release.members(owner.module, owner.node)
                (findings.checked if known else findings.unresolved).add(full)
    return None


def _found(release: Release, module: str, name: str, findings: Findings) -> list[Definition] | None:
    found = release.find(module, name)
    (findings.checked if found else findings.missing).add(f"{module}.{name}")
    return found


def _check_call(release: Release, call: ast.Call, names: dict, findings: Findings) -> None:
    keywords = [keyword.arg for keyword in call.keywords if keyword.arg]
    found = _resolve(release, call.func, names, Findings()) if keywords else None
    if not found:
        return
    signatures = [release.signature(one) for one in found]
    known = [one for one in signatures if one.parameters is not None]
    for keyword in keywords:
        full = f"{ast.unparse(call.func)}({keyword}=)"
        if any(one.takes_any or keyword in (one.parameters or ()) for one in known):
            findings.checked.add(full)
        elif len(known) == len(signatures):
            findings.missing.add(full)
        else:
            findings.unresolved.add(full)


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Every statement of a module that is outside functions and classes."""
    todo: list[ast.stmt] = list(tree.body)
    while todo:
        node = todo.pop(0)
        yield node
        for block in ("body", "orelse", "finalbody", "handlers"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for child in getattr(node, block, []):
                    todo += child.body if isinstance(child, ast.ExceptHandler) else [child]


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[set[str], bool]:
    given = node.args
    return {a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)}, given.kwarg is not None


def _belongs(module: str | None, package: str) -> bool:
    return module is not None and module.split(".")[0] == package


def _text(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def our_files() -> list[Path]:
    """Every Python file of ours that runs against other libraries."""
    return [path for name in OURS for path in sorted((ROOT / name).rglob("*.py"))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package")
    parser.add_argument("release", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as unpacked:
        folder = given.release
        if folder.is_file():
            with zipfile.ZipFile(folder) as wheel:
                wheel.extractall(unpacked, [n for n in wheel.namelist() if n.endswith((".py", ".pyi"))])
            folder = Path(unpacked)
        found = check(given.package, folder, our_files())
    for title in ("checked", "unresolved", "missing"):
        rows = sorted(getattr(found, title))
        print(f"{title}: {len(rows)}", *rows, sep="\n  ")
    return 1 if found.missing else 0


if __name__ == "__main__":
    sys.exit(main())
