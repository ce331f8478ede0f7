"""Each patch of another library is still needed: a test fails when the installed release is not (docs/patches.md)."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path

import pytest

from aad_plugin.harness import registration

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def registered():
    registration.register_all()


def test_lm_eval_discovers_no_models_yet():
    from lm_eval.api import registry

    assert not hasattr(registry, "import_plugins"), "lm-eval finds models by entry points: drop the start-up hook"


def test_lm_eval_finds_no_tasks_of_other_packages_yet():
    from lm_eval.tasks import manager

    # To make a manager takes ten seconds; tests/harness/test_plugin.py does, and finds our tasks through the patch.
    assert "entry_points" not in inspect.getsource(manager), "lm-eval may find our tasks itself: drop register_tasks"
    assert manager.TaskManager.__init__.__wrapped__ is not None


def test_lm_eval_does_not_name_a_pairs_folder_yet(tmp_path):
    from lm_eval.loggers import evaluation_tracker as trackers

    plain = trackers.GeneralConfigTracker()
    trackers.GeneralConfigTracker.log_experiment_args.__wrapped__(
        plain, model_source="aad", model_args="pair=demo", system_instruction=None, chat_template=None,
        fewshot_as_multiturn=False,
    )  # fmt: skip
    assert plain.model_name != "demo", "lm-eval names a pair's folder itself: drop output_folder's wrapping"


def test_lm_eval_names_no_nearest_task_and_takes_any_limit_yet():
    from lm_eval.config import evaluate_config

    source = inspect.getsource(evaluate_config)
    assert "get_close_matches" not in source, "lm-eval names the nearest task: drop plain_errors' process_tasks"
    assert evaluate_config.EvaluatorConfig.process_tasks.__wrapped__ is not None
    evaluate_config.EvaluatorConfig(model="aad", tasks=["aad_demo"], limit=0)  # raises: drop plain_errors' from_cli


def test_lm_eval_tells_a_task_neither_its_model_nor_its_folder_yet():
    from lm_eval.api.task import ConfigurableTask

    told = inspect.signature(ConfigurableTask.build_all_requests).parameters
    assert not {"lm", "model", "output_path"} & set(told), "a task is told its model: drop backends' wrapping"


def test_lm_eval_asks_for_vllm_by_one_name_yet():
    spec = importlib.util.find_spec("lm_eval.models.vllm_causallms")
    text = Path(str(spec.origin)).read_text(encoding="utf-8")
    assert re.search(r"version\(\s*[\"']vllm[\"']\s*\)", text), "the CPU build is accepted: drop vllm_host's answer"


def test_every_row_of_the_document_is_a_file():
    rows = re.findall(r"^\| `([\w./]+\.py)`", (ROOT / "docs" / "patches.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 6
    assert all((ROOT / "aad_plugin" / row).is_file() for row in rows)
