"""A draft cut out of a pair's own base: a few of its layers, changed a little, and a head over frequent tokens.

Owns the folder of such a draft and the model made of it. The folder holds what was trained, in 16 bit: low-rank changes of
the layers' linear weights and of the head, the last norm; layers and embeddings come from the base, so that a draft of
some megabytes serves. Knows nothing of decoding (`drafts.py`) or of training.

    aad_draft.json       layers (of the base, in order), rank, and the shape the base must have
    draft.safetensors    down.<layer>.<linear> (r, in), up.<layer>.<linear> (out, r), and of `head`, norm (H,), ids (F,)
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aad_plugin.errors import ConfigError

ACCOUNT, WEIGHTS = "aad_draft.json", "draft.safetensors"
_SHAPE = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def shape_of(config: Any) -> dict[str, Any]:
    """Return what a base's configuration must agree in with the one that a draft was cut from."""
    return {name: getattr(config, name, None) for name in _SHAPE}


def cut(base: PreTrainedModel, layers: list[int], ids: Tensor) -> PreTrainedModel:
    """Return a model of some layers of ``base`` with a head over ``ids`` alone; embeddings are shared, the rest is copied.

    Args:
        base: a decoder of Llama's kind, adapters and all; what an adapter adds is left out.
        ids: (F,) int64 token ids, the rows of the new head.
    """
    config = copy.deepcopy(base.config)
    config.num_hidden_layers, config.tie_word_embeddings, config.pad_token_id = len(layers), False, None
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in layers]
    embeddings = base.get_input_embeddings()
    config.vocab_size = len(ids)  # of the head; embeddings are the base's
    with torch.device("meta"):
        model = type(base)(config)
    own = model.base_model
    with torch.no_grad():
        for place, layer in enumerate(layers):
            state = {_plain(name): value for name, value in base.base_model.layers[layer].state_dict().items()}
            wanted = own.layers[place].state_dict()
            given = {name: state[name].detach().clone() for name in wanted}
            own.layers[place].load_state_dict(given, assign=True)
        norm = base.base_model.norm.weight.detach().clone()
        own.norm.load_state_dict({"weight": norm}, assign=True)
        head = base.get_output_embeddings().weight.detach()[ids.to(base.device)].clone()
        model.lm_head.load_state_dict({"weight": head}, assign=True)
    own.embed_tokens = embeddings
    own.rotary_emb = base.base_model.rotary_emb
    return model.eval()


def linear_layers(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """Yield each linear layer of a cut model's blocks as ``<place>.<path in the block>``, then its ``head``."""
    for place, block in enumerate(model.base_model.layers):
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear):
                yield f"{place}.{name}", module
    yield "head", model.lm_head


def read_cut_draft(folder: Path, base: PreTrainedModel) -> tuple[PreTrainedModel, Tensor]:
    """Return the model of a draft's folder over its base, and the token ids of its head.

    Raises:
        ConfigError: the folder is damaged, or the draft was cut from a base of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        account = json.loads((folder / ACCOUNT).read_text("utf-8"))
        layers, shape, stored = account["layers"], account["base"], load_file(folder / WEIGHTS)
        ids = stored["ids"].long()
        found = shape_of(base.config)
        if found != shape:
            differing = next(name for name in shape if found.get(name) != shape[name])
            raise ConfigError(
                f"draft_model={folder} was cut from a base whose {differing} is {shape[differing]}, this pair's is "
                f"{found.get(differing)}: use the draft of this pair's base, or leave draft_model out"
            )
        model = cut(base, layers, ids)
        with torch.no_grad():
            for name, linear in linear_layers(model):
                down, up = (stored[f"{part}.{name}"].to(linear.weight.device).float() for part in ("down", "up"))
                linear.weight.copy_(linear.weight.float().addmm(up, down))
            model.base_model.norm.weight.copy_(stored["norm"])
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, SafetensorError) as e:
        raise ConfigError(f"draft_model={folder} is damaged: {type(e).__name__} {e}") from e
    return model, ids


def _plain(name: str) -> str:
    """Return the name that a weight has without PEFT's layers around it."""
    return name.replace(".base_layer.", ".")
