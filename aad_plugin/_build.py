"""Build commands that place ``aad_plugin.pth`` beside the package, in ordinary and in editable installs.

The file is listed in the wheel's RECORD, so uninstalling removes it. setuptools has no declarative way to install a
``.pth`` file. Used by pyproject.toml at build time only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

PTH_NAME = "aad_plugin.pth"
PTH_LINE = (
    'import os; os.environ.get("AAD_PLUGIN_AUTOLOAD") == "0" '
    'or __import__("aad_plugin._autoload", fromlist=["install"]).install()\n'
)


class BuildPy(build_py):
    """Ordinary builds: write the file at the root of the wheel."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            Path(self.build_lib, PTH_NAME).write_text(PTH_LINE, encoding="utf-8")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), str(Path(self.build_lib, PTH_NAME))]


class EditableWheel(editable_wheel):
    """Editable builds: add the file to the wheel that holds setuptools' own redirections."""

    def _select_strategy(self, *args: Any, **kwargs: Any) -> Any:
        return _WithPth(super()._select_strategy(*args, **kwargs))


class _WithPth:
    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy

    def __enter__(self) -> _WithPth:
        self.strategy.__enter__()
        return self

    def __exit__(self, *exception: Any) -> Any:
        return self.strategy.__exit__(*exception)

    def __call__(self, wheel: Any, files: Any, mapping: Any) -> Any:
        self.strategy(wheel, files, mapping)
        wheel.writestr(PTH_NAME, PTH_LINE)
