"""Making lm-eval aware of this package: models, tasks, output folders, one-line errors. Every call is idempotent.

Imports nothing of torch or transformers; the model class is registered by name and loaded when first used.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from aad_plugin.harness import own_tasks

_MODELS = {
    "aad": "aad_plugin.harness.model:AADLM",
    "aad-multimodal": "aad_plugin.harness.multimodal:AADMultimodalLM",
    "aad-vllm": "aad_plugin.harness.vllm_model:AADVLLM",
}


def tasks_path() -> Path:
    """Return the folder of this package's task configurations."""
    import aad_plugin.tasks

    return Path(aad_plugin.tasks.__path__[0])


def register_all() -> None:
    """Register models, tasks, output folders and plain errors with whichever lm-eval is installed."""
    register_models()
    register_tasks()
    register_output_folders()
    register_plain_errors()
    print_errors_plainly()


def register_models() -> None:
    """Add the model names, unless this lm-eval discovers them through entry points by itself."""
    # The built-in models register on import of these two, and only while the registry is still empty (0.4.13).
    import lm_eval.api.metrics
    import lm_eval.models  # noqa: F401
    from lm_eval.api import registry

    if hasattr(registry, "import_plugins"):
        return
    for name, target in _MODELS.items():
        if name not in registry.model_registry:
            registry.model_registry.register(name, target=target)


def register_tasks() -> None:
    """Let every TaskManager find this package's tasks, between lm-eval's own and a user's ``--include_path``."""
    from lm_eval.tasks.manager import TaskManager

    original = TaskManager.__init__
    if getattr(original, "_finds_aad_tasks", False):
        return

    @functools.wraps(original)
    def init(
        self: Any,
        verbosity: str | None = None,
        include_path: Any = None,
        include_defaults: bool = True,
        metadata: Any = None,
    ) -> None:
        users = (
            list(include_path) if isinstance(include_path, (list, tuple)) else [include_path] if include_path else []
        )
        # A user who switches the defaults off wants their own folder alone.
        paths = [tasks_path(), *users] if include_defaults else users
        original(self, verbosity, paths or None, include_defaults and not own_tasks.ALONE.get(), metadata)
        self.include_path = include_path

    init._finds_aad_tasks = True  # type: ignore[attr-defined]
    TaskManager.__init__ = init  # type: ignore[method-assign]


def register_output_folders() -> None:
    """Let a run's answers, verdicts and results share one folder, named after the pair."""
    from aad_plugin.harness.output_folder import note_trackers

    note_trackers(_MODELS)


def register_plain_errors() -> None:
    """Turn what lm-eval says of a wrong option or task into one line."""
    from aad_plugin.harness.plain_errors import refuse_mistakes

    refuse_mistakes()


def print_errors_plainly() -> None:
    """Print a user's mistake as one line instead of a traceback when it reaches the top of a command line."""
    from aad_plugin.harness import plain_errors

    plain_errors.print_errors_plainly()
