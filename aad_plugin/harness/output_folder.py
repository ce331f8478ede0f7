"""The folder of a run: lm-eval's ``--output_path`` and, in it, the model's name, where lm-eval puts its results.

lm-eval tells a task neither. So its tracker, which holds both, is noted when it is told of an evaluation, and forgotten
when that evaluation ends. On the way a pair gets a name of its own: lm-eval knows only ``pretrained=`` and the like, and
names every other model's folder at random.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What names a pair, most telling first; lm-eval itself reads `pretrained`.
_NAMES = ("pair", "policy", "adapter")
_current: Path | None = None


def run_folder() -> Path | None:
    """Where lm-eval writes the results of the evaluation at hand; None where it writes none."""
    return _current


def forget() -> None:
    """The evaluation has ended."""
    global _current
    _current = None


def note_trackers(models: Mapping[str, str]) -> None:
    """Wrap lm-eval's trackers; a second call changes nothing.

    Args:
        models: this package's, by the name of ``--model``.
    """
    try:
        from lm_eval.loggers import evaluation_tracker as trackers
        from lm_eval.utils import sanitize_model_name

        original, log = trackers.EvaluationTracker.__init__, trackers.GeneralConfigTracker.log_experiment_args
    except (ImportError, AttributeError):
        return  # a release that keeps its paths elsewhere: answers go where a run without --output_path puts them
    if getattr(original, "_notes_its_path", False):
        return

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.general_config_tracker.aad_output_path = self.output_path

    @functools.wraps(log)
    def log_experiment_args(self: Any, *args: Any, **kwargs: Any) -> Any:
        global _current
        result = log(self, *args, **kwargs)
        given = dict(zip(("model_source", "model_args"), args, strict=False)) | kwargs
        if given.get("model_source") in models and (name := _name(given.get("model_args"))):
            self.model_name, self.model_name_sanitized = name, sanitize_model_name(name)
        _current = _folder(getattr(self, "aad_output_path", None), str(self.model_name_sanitized))
        return result

    init._notes_its_path = True  # type: ignore[attr-defined]
    trackers.EvaluationTracker.__init__ = init  # type: ignore[method-assign]
    trackers.GeneralConfigTracker.log_experiment_args = log_experiment_args  # type: ignore[method-assign]


def _name(model_args: Any) -> str | None:
    """The pair's name; None where lm-eval finds one itself, or the pair is no text."""
    if isinstance(model_args, str):
        from lm_eval.utils import simple_parse_args_string

        model_args = simple_parse_args_string(model_args)
    if not isinstance(model_args, Mapping) or model_args.get("pretrained"):
        return None
    return next((str(model_args[name]) for name in _NAMES if isinstance(model_args.get(name), str | Path)), None)


def _folder(output_path: str | None, model: str) -> Path | None:
    """As lm-eval does it: a path that ends in .json is a file, whose folder holds everything."""
    if not output_path:
        return None
    path = Path(output_path)
    return path.parent if path.suffix == ".json" else path / model
