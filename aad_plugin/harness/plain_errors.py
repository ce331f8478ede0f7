"""One line instead of a traceback for what a user typed: ours at the top of a command line, lm-eval's where they arise.

lm-eval raises plain ValueErrors for a task that is not there, an option that contradicts another or a model nobody
registered. All errors of the places wrapped here are about the command line, so they become ConfigErrors.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import TracebackType
from typing import Any

from aad_plugin.errors import AADError, ConfigError, nearest
from aad_plugin.harness.own_tasks import our_tasks_alone

_MISTAKES = (ValueError, TypeError, KeyError, OSError)


def print_errors_plainly() -> None:
    """Print a user's mistake as one line when it reaches the top of a command line."""
    previous = sys.excepthook
    if getattr(previous, "_plain_aad_errors", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, AADError):
            print(f"error: {error}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    hook._plain_aad_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def refuse_mistakes() -> None:
    """Wrap lm-eval's reading of options and tasks; a second call changes nothing."""
    try:
        from lm_eval.config.evaluate_config import EvaluatorConfig

        read, find = EvaluatorConfig.from_cli.__func__, EvaluatorConfig.process_tasks  # type: ignore[attr-defined]
    except (ImportError, AttributeError):
        return  # a release that reads its options elsewhere answers mistakes in its own way
    if getattr(find, "_plain_aad_errors", False):
        return

    @functools.wraps(read)
    def from_cli(cls: Any, *args: Any, **kwargs: Any) -> Any:
        config = _plainly(read, cls, *args, **kwargs)
        check_limit(config.limit)
        _check_model(config.model)
        return config

    @functools.wraps(find)
    def process_tasks(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked = self.tasks
        with our_tasks_alone() if _all_ours(asked, self) else nullcontext():
            try:
                return _plainly(find, self, *args, **kwargs)
            except ConfigError as error:
                raise ConfigError(str(error) + _nearest_tasks(asked, self)) from error

    process_tasks._plain_aad_errors = True  # type: ignore[attr-defined]
    EvaluatorConfig.from_cli = classmethod(from_cli)  # type: ignore[assignment]
    EvaluatorConfig.process_tasks = process_tasks  # type: ignore[method-assign]


def check_limit(limit: Any) -> None:
    """Raise ConfigError where no document would be left: lm-eval takes 0 for all of them, or fails on it."""
    if isinstance(limit, int | float) and limit <= 0:
        raise ConfigError(f"--limit must be above 0 (documents; below 1 a share of them), got {limit:g}")


def _plainly(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except AADError:
        raise
    except _MISTAKES as error:
        reason = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
        raise ConfigError(f"lm-eval: {reason or type(error).__name__}") from error


def _check_model(name: Any) -> None:
    """Refuse a model nobody registered before lm-eval reads a task for it."""
    import lm_eval.models  # noqa: F401 - enters the names
    from lm_eval.api import registry

    if hasattr(registry, "import_plugins"):
        return  # this lm-eval asks other packages for the name later
    if isinstance(name, str) and name not in (known := list(registry.model_registry.keys())):
        raise ConfigError(f"no model {name!r}{nearest(name, known)}; lm-eval knows {', '.join(sorted(known))}")


def _all_ours(asked: Any, config: Any) -> bool:
    """Whether every task asked for is one of this package's by its name; a user's own folder may build on any task."""
    words = _words(asked)
    return not config.include_path and bool(words) and all(re.fullmatch(r"aad_\w+", word) for word in words)


def _words(asked: Any) -> list[str]:
    words = asked.split(",") if isinstance(asked, str) else list(asked or [])
    return [part.strip() for word in words if isinstance(word, str) for part in word.split(",")]


def _nearest_tasks(asked: Any, config: Any) -> str:
    from lm_eval.tasks import TaskManager

    words = _words(asked)
    manager = TaskManager(include_path=config.include_path, metadata=config.metadata or {})
    missing = [word for word in words if not word.endswith(".yaml") and not manager.match_tasks([word])]
    hints = [nearest(word, manager.all_tasks) for word in missing[:3]]
    return "".join(hints) + "; `lm_eval ls tasks` and `aad tasks` list them"
