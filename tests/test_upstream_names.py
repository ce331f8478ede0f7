"""The check of a release by names finds what is there, and what is not: a planted package and planted mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.upstream_names import check, our_files

RELEASE = {
    "pack/__init__.py": "from .inner import Engine as Engine\nLAZY = {'Lazy': '.inner:Engine'}\n",
    "pack/inner.py": """
from dataclasses import dataclass
class Base:
    def start(self, one): ...
    def stop(self): ...
class Engine(Base):
    def __init__(self, model, *, seed=0): ...
@dataclass
class Options:
    depth: int = 1
try:
    from elsewhere import fast
except ImportError:
    def fast(**anything): ...
""",
}


@pytest.fixture
def findings(tmp_path):
    for name, text in RELEASE.items():
        path = tmp_path / "release" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(code):
        (tmp_path / "ours.py").write_text(code)
        return check("pack", tmp_path / "release", [tmp_path / "ours.py"])

    return run


@pytest.mark.parametrize(
    "code",
    [
        "from pack import Engine, Lazy\nEngine(model=1, seed=2)\nLazy(seed=3)",
        "import pack\npack.Engine(seed=2)\npack.inner.Options(depth=2)",
        "import pack.inner as inner\ninner.fast(whatever=1)",
        "from pack.inner import Base\nclass Ours(Base):\n    def start(self, one):\n        super().stop()",
        "try:\n    from pack.moved import Engine\nexcept ImportError:\n    from pack.inner import Engine\nEngine(seed=1)",
    ],
)
def test_what_is_there_is_found(findings, code):
    found = findings(code)
    assert found.checked and not found.missing, found


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("from pack import Motor", "pack.Motor"),
        ("from pack.gone import Engine", "pack.gone.Engine"),
        ("import pack\npack.inner.Motor(1)", "pack.inner.Motor"),
        ("from pack import Engine\nEngine(speed=1)", "Engine(speed=)"),
        ("from pack.inner import Options\nOptions(width=1)", "Options(width=)"),
        ("from pack.inner import Base\nclass Ours(Base):\n    def go(self): super().halt()", "pack.inner.Base.halt"),
        ("from pack.inner import Base\nclass Ours(Base):\n    def start(self): ...", "pack.inner.Base.start(…)"),
    ],
)  # fmt: skip
def test_a_planted_mistake_is_found(findings, code, missing):
    assert findings(code).missing == {missing}


def test_the_installed_torch_has_everything_we_use():
    import torch

    found = check("torch", Path(torch.__file__).parents[1], our_files())
    assert len(found.checked) > 60 and not found.missing


@pytest.mark.engine
def test_the_installed_vllm_has_everything_we_use():
    from importlib.util import find_spec

    folder = Path(find_spec("vllm").origin).parents[1]
    found = check("vllm", folder, our_files())
    assert len(found.checked) > 80 and not found.missing
    planted = subprocess.run(
        [sys.executable, "-m", "tests.upstream_names", "vllm", str(folder / "vllm" / "v1")],
        capture_output=True,
        text=True,
    )
    assert planted.returncode == 1 and "no package 'vllm'" in planted.stderr
