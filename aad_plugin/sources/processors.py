"""Processors: what turns prompts with pictures into a model's inputs. Loading, comparing and marking them.

    processor = load_processor("my/vlm", config)        # None for a model that reads text alone

Knows nothing of models' weights.
"""

from __future__ import annotations

import functools
import inspect
import json
from types import FunctionType
from typing import Any

from aad_plugin.errors import ConfigError, VocabMismatch, first_line
from aad_plugin.files.marks import text_mark

_EXTRA = "pip install 'aad_plugin[vision]'"


def sees(config: Any) -> bool:
    """Whether a model of this configuration reads pictures with its prompts."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return getattr(config, "model_type", None) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def load_processor(path: str, config: Any, **options: Any) -> Any:
    """Return the processor of a model that sees, or None: for other models, and where a checkpoint has none of its own.

    Args:
        path: folder or hub id. config: the model's configuration. **options: of ``AutoProcessor.from_pretrained``.
    Raises:
        ConfigError: a package is missing; names what installs it.
    """
    if not sees(config):
        return None
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available, is_vision_available

    if not is_vision_available():
        raise ConfigError(f"{path!r} sees, and pictures are read by Pillow, which is not installed: {_EXTRA}")
    try:
        found = AutoProcessor.from_pretrained(path, **options)
    except OSError:  # the checkpoint was saved without one, or without its part for videos
        try:
            found = _without_videos(path, config, options)
        except (OSError, ValueError, TypeError, AttributeError):
            return None  # it is read as text alone
        except ImportError as error:
            raise _unreadable(path, error) from error
    except (ImportError, ValueError, TypeError, AttributeError) as error:
        if is_torchvision_available():
            raise _unreadable(path, error) from error
        try:
            found = _without_videos(path, config, options)
        except OSError:
            return None
        except (ImportError, ValueError, TypeError, AttributeError) as second:
            raise _unreadable(path, second) from error
    return found if getattr(found, "image_processor", None) is not None else None


def image_only(processor_class: Any) -> Any:
    """Return a processor's class without its part for videos, which needs torchvision; pictures need Pillow alone."""
    attributes = [name for name in processor_class.get_attributes() if name != "video_processor"]
    own: dict[str, Any] = {"get_attributes": classmethod(lambda cls: attributes), "video_processor": None}
    init = processor_class.__init__
    names = list(inspect.signature(init).parameters)
    asked = inspect.signature(init).parameters.get("video_processor")
    if asked is not None and asked.default is inspect.Parameter.empty:
        # SmolVLM's must be given one. Its own code with a default: loading and saving go by its names.
        given = init.__defaults__ or ()
        positional = init.__code__.co_argcount - names.index("video_processor")
        defaults = (*(None,) * (positional - len(given)), *given)
        own["__init__"] = FunctionType(init.__code__, init.__globals__, "__init__", defaults, init.__closure__)
    return type(processor_class.__name__, (processor_class,), {**own, "__module__": processor_class.__module__})


def _without_videos(path: str, config: Any, options: dict[str, Any]) -> Any:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    if type(config) not in PROCESSOR_MAPPING:
        raise ValueError(f"no processor is known for {type(config).__name__}")
    return image_only(PROCESSOR_MAPPING[type(config)]).from_pretrained(path, **options)


def _unreadable(path: str, error: Exception) -> ConfigError:
    needs = f"; {_EXTRA} brings what pictures need" if isinstance(error, ImportError) else ""
    return ConfigError(f"cannot read the processor of {path!r}: {first_line(error)}{needs}")


def check_same_processor(policy: Any, reference: Any) -> None:
    """Raise VocabMismatch unless two processors show their models a picture in one way.

    Args:
        policy, reference: processors, or None for text alone.
    """
    if policy is None and reference is None:
        return
    if policy is None or reference is None:
        blind = "policy" if policy is None else "reference"
        raise VocabMismatch(
            f"the {blind} reads text alone and the other side sees: a pair needs the reference its policy was tuned from"
        )
    one, other = _described(policy), _described(reference)
    differing = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    if differing:
        name = differing[0]
        raise VocabMismatch(
            f"policy and reference must be shown a picture in one way; their processors differ in {', '.join(differing)}: "
            f"{name} is {one.get(name)!r} for the policy and {other.get(name)!r} for the reference"
        )


def processor_mark(processor: Any) -> str | None:
    """Return 16 hex digits from what a processor does with pictures and where it puts them; None for no processor."""
    return None if processor is None else text_mark(json.dumps(_described(processor), sort_keys=True, default=str))


def _described(processor: Any) -> dict[str, Any]:
    """What changes a model's inputs: class and options of the image part, and those of the processor itself."""
    images = processor.image_processor
    own = {f"image {name}": value for name, value in images.to_dict().items() if not name.startswith("_")}
    kept = {
        name: value
        for name, value in vars(processor).items()
        if isinstance(value, str | int | float | bool) and name != "chat_template"
    }
    return {**own, **kept, "class": type(processor).__name__, "image class": type(images).__name__}


@functools.cache
def need_pillow() -> None:
    """Raise ConfigError unless pictures can be read here."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"pictures are read by Pillow, which is not installed: {_EXTRA}") from error
