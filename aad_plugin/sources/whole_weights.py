"""Models all of whose weights are their checkpoint's.

transformers draws at random what a checkpoint lacks and says so in its log alone: a policy saved without its head, a
classifier where a language model is wanted, a model that sees under a class that reads text. Numbers of such a model are
numbers of nothing, so here that is an error.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.sources.processors import load_processor


def load_whole(auto_class: Any, path: str, *, brought: Collection[str] = (), **options: Any) -> Any:
    """Return ``auto_class.from_pretrained(path, **options)``.

    Args:
        auto_class: one of transformers'. path: folder or hub id.
        brought: names of an adapter's tensors; what they hold whole need not be in the checkpoint.
    Raises:
        ConfigError: the checkpoint lacks weights of this class. Else as ``from_pretrained``.
    """
    return whole(auto_class.from_pretrained(path, output_loading_info=True, **options), path, brought=brought)


def whole(loaded: tuple[Any, dict[str, Any]], path: str, *, brought: Collection[str] = ()) -> Any:
    """Return the model of what ``from_pretrained(…, output_loading_info=True)`` gave.

    Args:
        path: as given, for messages. brought: see :func:`load_whole`.
    Raises:
        ConfigError: the checkpoint lacks weights of this class.
    """
    model, info = loaded
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}  # buffers are computed
    missing = sorted(
        name for name in own & set(info["missing_keys"]) if not any(tensor.endswith(f".{name}") for tensor in brought)
    )
    if missing:
        raise ConfigError(
            f"{path!r} lacks {len(missing)} of the {len(own)} weights of {type(model).__name__} (first {missing[0]}), "
            "which would be random: name a checkpoint of this kind of model, saved whole"
        )
    return model


def load_merging(path: str) -> Any:
    """Return a checkpoint's model in float32, to add weights to; one that sees by the class that sees.

    Raises:
        ConfigError: it lacks weights, or a package that reads its pictures. Else as ``from_pretrained``.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    sees = load_processor(path, AutoConfig.from_pretrained(path)) is not None
    return load_whole(AutoModelForImageTextToText if sees else AutoModelForCausalLM, path, dtype=torch.float32)
