"""Nothing is printed that a user can do nothing about."""

from __future__ import annotations

import logging
import warnings

from aad_plugin import AlignedPair


def test_attaching_adapters_warns_of_nothing(checkpoints):
    """transformers 5.23 scolded every user of an adapter pair for a name that PEFT uses."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        AlignedPair.from_pretrained(**checkpoints.model_args("two_adapters"))
    assert [str(one.message) for one in seen if issubclass(one.category, FutureWarning)] == []


def test_loading_our_tasks_warns_of_nothing(caplog):
    """lm-eval told of each task, on every run, that options can be passed."""
    from lm_eval.tasks.manager import TaskManager

    from aad_plugin.harness import registration
    from aad_plugin.harness.own_tasks import our_tasks_alone

    registration.register_all()
    with our_tasks_alone(), caplog.at_level(logging.WARNING):
        found = TaskManager().load(["aad_demo_dialogue", "aad_demo_moderation"])
    assert len(found["tasks"]) == 2 and caplog.text == ""


def test_training_keeps_the_users_own_filters_and_adds_ours(monkeypatch):
    import subprocess
    import sys

    from aad_plugin.training.trl_command import _quiet

    monkeypatch.setenv("PYTHONWARNINGS", "error::ImportWarning")
    script = (
        "import warnings\n"
        "warnings.warn('`gradient_checkpointing` is deprecated and will be removed', FutureWarning)\n"
        "warnings.warn(\"'trl.cli.main' found in sys.modules after import\", RuntimeWarning)\n"
        "warnings.warn('another', FutureWarning)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONWARNINGS": _quiet()}
    )
    assert _quiet().startswith("error::ImportWarning,") and "another" in done.stderr
    assert "gradient_checkpointing" not in done.stderr and "trl.cli.main" not in done.stderr
