"""Extrapolated weights (ExPO): θ_policy + scale · (θ_policy − θ_reference), one model where a pair has two.

Owns the arithmetic, which every host shares, and what is written to disk: a checkpoint, or for a LoRA on its base an
adapter whose B is 1 + scale times the policy's. Knows nothing of decoding.

Source: Model Extrapolation Expedites Alignment, arXiv 2404.16792.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from aad_plugin.errors import ConfigError, first_line
from aad_plugin.files.cache import cache_dir
from aad_plugin.files.marks import newest_mark
from aad_plugin.files.whole import making_folder
from aad_plugin.sources.merging import full_checkpoints, is_plain_lora, is_tied, refuse_pickles, save_texts, untie
from aad_plugin.sources.parts import PairSource
from aad_plugin.sources.whole_weights import load_merging
from aad_plugin.texts.rendering import borrow_template

logger = logging.getLogger(__name__)

_WHOLE = "save it as one model first (aad pairs save --expo) or pass two full checkpoints of one architecture"


def extrapolated(policy: Any, reference: Any, scale: float) -> Any:
    """Return a new model in eval mode at θ_policy + scale · (θ_policy − θ_reference), of the policy's dtype and device.

    Sums are in float32. Of embeddings and heads of different length the shared rows are extrapolated.

    Args:
        policy, reference: full models of one architecture; left as they are.
    Raises:
        ConfigError: other architectures or shapes, quantised weights, or weights on several devices.
    """
    import torch
    from transformers.initialization import no_init_weights

    _refuse(policy, reference)
    with no_init_weights():
        model = type(policy)._from_config(copy.deepcopy(policy.config), dtype=policy.dtype)
    model = model.to(policy.device).eval()
    model.generation_config = copy.deepcopy(policy.generation_config)
    ties = [is_tied(one) for one in (policy, reference)]
    if not all(ties):  # a head of its own on either side is a head of its own here
        untie(model)
    own, other = (dict(one.named_parameters(remove_duplicate=False)) for one in (policy, reference))
    buffers = dict(policy.named_buffers())
    done: set[int] = set()
    with torch.no_grad():
        for name, target in model.named_parameters(remove_duplicate=False):
            if id(target) not in done:
                done.add(id(target))
                target.data = _extrapolate(name, own[name], other[name], scale)
        for name, target in model.named_buffers():  # what is no parameter is the policy's
            if name in buffers and buffers[name].shape == target.shape:
                target.copy_(buffers[name])
    return model.requires_grad_(False)


def _extrapolate(name: str, policy: Any, reference: Any, scale: float) -> Any:
    """Return one weight in the policy's dtype; the sum is in float32."""
    import torch

    found = policy.detach().float().clone()
    shared = min(len(policy), len(reference)) if policy.ndim else 0
    there = reference.detach().to(policy.device).float()
    if policy.shape == reference.shape:
        found += scale * (found - there)
    elif policy.ndim == reference.ndim and policy.shape[1:] == reference.shape[1:]:
        found[:shared] += scale * (found[:shared] - there[:shared])
    else:
        raise ConfigError(
            f"expo adds up the weights of one architecture: {name} is {tuple(policy.shape)} in the policy and "
            f"{tuple(reference.shape)} in the reference"
        )
    if not torch.isfinite(found.to(policy.dtype)).all():
        raise ConfigError(f"expo_scale={scale:g} leaves the range of {policy.dtype} in {name}: take a smaller one")
    return found.to(policy.dtype)


def _refuse(policy: Any, reference: Any) -> None:
    kinds = type(policy).__name__, type(reference).__name__
    if kinds[0] != kinds[1]:
        raise ConfigError(
            f"expo adds up the weights of one architecture, got {kinds[0]} and {kinds[1]}: a pair of two architectures "
            "has no such model; use strategy=aad or eft"
        )
    for role, model in (("policy", policy), ("reference", reference)):
        if getattr(model, "quantization_method", None) or not all(p.is_floating_point() for p in model.parameters()):
            raise ConfigError(f"expo adds up plain weights, the {role}'s are quantised: {_WHOLE}")
        if len({p.device for p in model.parameters()}) > 1:
            raise ConfigError(f"expo adds up weights on one device, the {role}'s stand on several: {_WHOLE}")
    missing = {n for n, _ in policy.named_parameters(remove_duplicate=False)} ^ {
        n for n, _ in reference.named_parameters(remove_duplicate=False)
    }
    if missing:
        raise ConfigError(
            f"expo adds up the weights of one architecture, {sorted(missing)[0]} is in one of the models only"
        )


# ------------------------------------------------------------------------------------------------ on disk


def expo_checkpoint(source: PairSource, scale: float, dtype: str = "auto") -> Path:
    """Return the folder of the extrapolated model as a full checkpoint, made once and kept in the cache.

    Args:
        dtype: of the written weights; "auto" is the policy's own. Adapters are merged and sums made in float32.
    Raises:
        ConfigError: see :func:`extrapolated`; a part cannot be read; the disk does not take it.
    """
    _check_reference(source)
    parts = [part for part in (source.policy, source.reference, source.base, source.adapter, source.reference_adapter)]
    mark = [[part, newest_mark(part)] for part in parts if part]
    name = hashlib.sha256(json.dumps(["expo", mark, scale, dtype]).encode()).hexdigest()[:16]
    target = cache_dir() / "merged" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            logger.info("extrapolating %s by %g", source.adapter or source.policy, scale)
            with making_folder(target) as part:
                _write_checkpoint(source, scale, dtype, part)
    return target


def save_expo(source: PairSource, scale: float, folder: str | Path, *, dtype: str = "auto", whole: bool = False) -> str:
    """Write the extrapolated model so that any host loads it without this package.

    Args:
        folder: to write; must not exist, or be empty. dtype: of a checkpoint's weights, "auto" is the policy's own.
        whole: a full checkpoint also where an adapter would do (a plain LoRA whose reference is its base).
    Returns:
        "adapter" or "checkpoint", what was written.
    Raises:
        ConfigError: see :func:`expo_checkpoint`; the folder holds something.
    """
    target = Path(folder).expanduser()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ConfigError(f"{target} holds something already: choose an empty folder")
    _check_reference(source)
    refuse_pickles(source)
    as_adapter = not whole and source.shares_base and not source.reference_adapter
    as_adapter = as_adapter and is_plain_lora(Path(str(source.adapter)).expanduser())
    if as_adapter and dtype != "auto":
        raise ConfigError(
            f"dtype={dtype} is of a checkpoint's weights, and this pair's is an adapter, in float32: leave it out, or ask "
            "for a checkpoint (--whole)"
        )
    if target.is_dir():
        target.rmdir()
    try:
        with making_folder(target) as part:
            if as_adapter:
                _write_adapter(source, scale, part)
            else:
                _write_checkpoint(source, scale, dtype, part)
            kind = "adapter" if as_adapter else "checkpoint"
            card = _card(source, scale, kind, sees=any(part.glob("*processor_config.json")))
            (part / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror or error}; pass another folder") from error
    return kind


def _check_reference(source: PairSource) -> None:
    if source.is_alone:
        raise ConfigError(f"expo goes on from a reference to its policy, and {source.policy} was given without one")


def _write_checkpoint(source: PairSource, scale: float, dtype: str, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoTokenizer

    paths = full_checkpoints(source, "float32")
    try:
        config = AutoConfig.from_pretrained(source.backbone)
        own = (getattr(config, "dtype", None) or torch.float32) if dtype == "auto" else getattr(torch, dtype)
        policy, reference = (load_merging(path) for path in paths)
    except ConfigError:
        raise
    except (ImportError, OSError, ValueError, RuntimeError) as e:
        raise ConfigError(f"cannot load the pair's checkpoints: {first_line(e)}") from e
    extrapolated(policy, reference, scale).to(own).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source.tokenizer)
    borrow_template(tokenizer, source.adapter, source.base)
    save_texts(source.backbone, tokenizer, folder)


def _write_adapter(source: PairSource, scale: float, folder: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    adapter = Path(str(source.adapter)).expanduser()
    weights = {
        name: weight.float() * (1 + scale) if ".lora_B." in name else weight
        for name, weight in load_file(adapter / "adapter_model.safetensors").items()
    }
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8-sig"))
    local = Path(str(source.base)).expanduser()
    config["base_model_name_or_path"] = str(local.resolve()) if local.is_dir() else str(source.base)
    config["inference_mode"] = True
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for file in adapter.glob("*.jinja"):
        shutil.copy(file, folder / file.name)
    tokenizer = AutoTokenizer.from_pretrained(source.tokenizer)
    borrow_template(tokenizer, source.adapter, source.base)
    tokenizer.save_pretrained(folder)


def _card(source: PairSource, scale: float, kind: str, sees: bool = False) -> str:
    base = source.base if kind == "adapter" else source.backbone
    parts = "\n".join(f"* {name}: `{value}`" for name, value in source.parts().items())
    load = (
        "`PeftModel.from_pretrained(base, this folder)`, or vLLM's `--enable-lora --lora-modules expo=<this folder>`"
        if kind == "adapter"
        else f"`{'AutoModelForImageTextToText' if sees else 'AutoModelForCausalLM'}.from_pretrained(this folder)`, "
        f"`lm_eval --model hf{'-multimodal' if sees else ''}`, `vllm serve <this folder>`"
    )
    return (
        f"---\nbase_model: {base}\ntags: [expo, model-extrapolation]\n---\n\n# Extrapolated weights (ExPO)\n\n"
        f"θ = θ_policy + {scale:g} · (θ_policy − θ_reference), arXiv 2404.16792. Nothing was trained for it.\n\n{parts}\n\n"
        f"It is an ordinary {kind}: {load}. Greedy decoding of it is `strategy=expo,expo_scale={scale:g}` of aad_plugin.\n"
    )
