"""lm-eval finds the model and the tasks in processes that never imported this package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIND_ALL = """
import sys
assert not [name for name in sys.modules if name.split(".")[0] in ("torch", "lm_eval")]
import lm_eval
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager
import lm_eval.models
print(get_model("aad").__name__, get_model("hf").__name__, "aad_demo_dialogue" in TaskManager().all_tasks)
"""


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=300,
    )


def test_importing_the_package_loads_neither_torch_nor_transformers(tmp_path):
    heavy = "('torch', 'transformers', 'lm_eval', 'pathlib', 'typing')"
    code = f"import aad_plugin, sys; print([m for m in {heavy} if m in sys.modules])"
    # -S -E: without site-packages' own start-up files, which may load anything.
    done = python("-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}", cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "place", [pytest.param("elsewhere", marks=pytest.mark.grid), "clone"]
)  # CI's wheel is elsewhere
def test_models_and_tasks_are_found(tmp_path, place):
    done = python("-c", FIND_ALL, cwd=ROOT if place == "clone" else tmp_path)
    assert done.stdout.strip() == "AADLM HFLM True", done.stderr


def test_autoload_can_be_turned_off(tmp_path):
    done = python("-c", "import sys; print('aad_plugin' in sys.modules)", cwd=tmp_path, AAD_PLUGIN_AUTOLOAD="0")
    assert done.stdout.strip() == "False"


def test_registration_leaves_a_discovering_lm_eval_alone(monkeypatch):
    from lm_eval.api import registry

    from aad_plugin.harness import registration

    registration.register_models()
    monkeypatch.setattr(registry, "import_plugins", lambda names: None, raising=False)
    monkeypatch.setattr(registry, "model_registry", None)
    registration.register_models()  # would fail on the missing registry if it touched it


@pytest.mark.parametrize(
    "program", [["-m", "lm_eval"], pytest.param(["-m", "aad_plugin.cli", "eval"], marks=pytest.mark.grid)]
)
def test_a_users_mistake_is_one_line_and_a_status(tmp_path, program):
    run = ["run"] if "lm_eval" in program else []
    arguments = ["--model", "aad", "--model_args", "policy=gpt2", "--tasks", "aad_demo_dialogue"]
    done = python(*program, *run, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: policy='gpt2' was given without its reference")


def test_a_users_own_task_folder_still_wins(tmp_path, monkeypatch):
    from lm_eval.tasks import TaskManager, manager

    from aad_plugin.harness.registration import register_all

    register_all()
    # One folder stands for lm-eval's thousands, which take long to read.
    monkeypatch.setattr(manager, "__file__", str(Path(manager.__file__).parent / "hellaswag" / "manager.py"))
    (tmp_path / "own.yaml").write_text("task: own_task\ndataset_path: json\n")
    found = TaskManager(include_path=str(tmp_path))
    assert {"own_task", "aad_demo_dialogue", "hellaswag"} <= set(found.all_tasks)
    assert found.include_path == str(tmp_path)
    assert "aad_demo_dialogue" not in TaskManager(include_path=str(tmp_path), include_defaults=False).all_tasks
