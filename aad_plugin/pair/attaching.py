"""Adapters onto the base that both sides of a pair share, with what PEFT does not check.

PEFT warns of tensors that find no layer and rewrites a base's weights for some ways of initialising; either would give
answers of models that nobody trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from aad_plugin.errors import ConfigError
from aad_plugin.pair.multimodal import sees_apart
from aad_plugin.pair.one_base import OneBase
from aad_plugin.pair.reading import Role
from aad_plugin.pair.sides import Sides
from aad_plugin.pair.sides_in_turns import OneBaseInTurns
from aad_plugin.sources.adapter_base import check_hub_adapter
from aad_plugin.sources.adapter_files import adapter_file
from aad_plugin.sources.attached import attached
from aad_plugin.sources.known_options import refuse_pickled_adapter
from aad_plugin.sources.parts import PairSource

# Numbers compared of each weight before and after adapters are loaded.
_SAMPLED = 4096


def attach_adapters(
    base: PreTrainedModel,
    source: PairSource,
    revision: str | None,
    *,
    vocab_size: int,
    pickles: bool,
    others: Mapping[Role, str | None] | None = None,
) -> Sides:
    """Load a pair's adapters onto its base and check that all of them arrived and nothing else changed.

    Args:
        base: the loaded base; changed in place. revision: of the pair's adapters on the hub.
        vocab_size: number of token ids that the pair's tokenizer has.
        pickles: whether adapters may be read from pickle files, which can run code.
        others: adapters of further sides by role; None = the base alone.
    Raises:
        ConfigError: an adapter does not fit, tensors of it found no layer, or loading rewrote the base's weights.
    """
    adapters = {"policy": source.adapter}
    if source.reference_adapter:
        adapters["reference"] = source.reference_adapter
    adapters |= {role: path for role, path in (others or {}).items() if path is not None}
    if not pickles:
        for path in adapters.values():
            refuse_pickled_adapter(Path(str(path)).expanduser())
    on_hub = {name for name in ("policy", "reference") if name in adapters and not Path(str(adapters[name])).is_dir()}
    options = {name: {"revision": revision} if revision and name in on_hub else {} for name in adapters}
    for name, path in adapters.items():
        check_hub_adapter(str(path), str(source.base), **options[name])
    files = [adapter_file(str(path), "adapter_model.safetensors", **options[name]) for name, path in adapters.items()]
    _grow(base, source, max(_rows(file, base) for file in files), vocab_size)
    before = _sampled_weights(base, vocab_size)
    try:
        model = attached(base, str(source.adapter), adapter_name="policy", **options["policy"])
        # PEFT only warns of tensors that find no layer, and says which only when an adapter is loaded by itself.
        for name, path in adapters.items():
            own = options[name]
            _check_tensors(model, name, str(path), model.load_adapter(path, adapter_name=name, **own))
    except ConfigError:
        raise
    except (ImportError, OSError, ValueError, RuntimeError, TypeError) as e:
        reason = " ".join(str(e).split())[:300]
        raise ConfigError(f"adapter {source.adapter!r} does not fit base {source.base!r}: {reason}") from e
    _check_base(source, before, _sampled_weights(model.get_base_model(), vocab_size))
    further = {role: None if path is None else role for role, path in (others or {}).items()}
    reference = "reference" if source.reference_adapter else None
    if sees_apart(model):
        return OneBaseInTurns(model.eval(), {"policy": "policy", "reference": reference, **further})
    return OneBase(model.eval(), "policy", reference, **further)


def _rows(file: Path | None, base: PreTrainedModel) -> int:
    """Return the largest number of token ids that an adapter's embeddings or head have; 0 where it brings neither.

    Args:
        file: its tensors; None where they are a pickle.
    """
    from safetensors import safe_open

    modules = {id(one) for one in (base.get_input_embeddings(), base.get_output_embeddings()) if one is not None}
    names = [name for name, module in base.named_modules() if id(module) in modules]
    if file is None:
        return 0
    found = 0
    with safe_open(file, framework="pt") as tensors:
        for key in tensors.keys():
            owner = next((name for name in names if f".{name}." in f".{key}"), None)
            if owner is None or any(part in key for part in ("lora_A", "lora_embedding_B")):
                continue
            shape = tensors.get_slice(key).get_shape()
            found = max(found, shape[1] if "lora_embedding_A" in key else shape[0])
    return found


def _grow(base: PreTrainedModel, source: PairSource, rows: int, vocab_size: int) -> None:
    """Give the base the rows that an adapter was saved with. The pair decodes over the ids that both sides know, so what
    stands in the new rows is never read.

    Raises:
        ConfigError: the pair's tokenizer has ids that the base does not know.
    """
    own = base.get_input_embeddings().weight.shape[0]
    if rows <= own:
        return
    if vocab_size > own:
        raise ConfigError(
            f"adapter {source.adapter!r} was trained with {rows} tokens, its base {source.base!r} has {own}, and the "
            f"tokenizer {vocab_size}: the reference knows none of the added ones; pass tokenizer={source.base}, over whose "
            "ids the pair decodes"
        )
    base.resize_token_embeddings(rows, mean_resizing=False)


def _check_tensors(model: Any, name: str, path: str, result: Any) -> None:
    """Raise where tensors of an adapter found no layer, or no layer got any."""
    lost = list(result.unexpected_keys)
    own = {one for one, _ in model.named_parameters() if "lora_" in one and f".{name}." in one}
    if lost:
        what = f"{len(lost)} tensors of adapter {path!r} found no layer of its base (first {lost[0]})"
    elif own and own <= set(result.missing_keys):
        what = f"adapter {path!r} holds none of the {len(own)} tensors that its own configuration names"
    else:
        return
    raise ConfigError(
        f"{what}, so the policy would not be what was trained: the adapter comes from another class of this model (a "
        "vision-language wrapper, another version); rename its tensors to those of the base"
    )


def _sampled_weights(model: Any, vocab_size: int) -> dict[str, torch.Tensor]:
    """Return some numbers of every weight that is the base's own, by its name without PEFT's wrapping; of embeddings and
    head those of the pair's ids."""
    found = {}
    rows = model.get_input_embeddings().weight.shape[0]
    for name, weight in model.named_parameters():
        if "lora_" in name or ".modules_to_save." in name or weight.device.type == "meta":
            continue
        plain = name.replace(".base_layer", "").replace(".original_module", "")
        flat = (weight.detach()[:vocab_size] if weight.shape[:1] == (rows,) else weight.detach()).flatten()
        found[plain] = flat[:: max(1, len(flat) // _SAMPLED)].clone()
    return found


def _check_base(source: PairSource, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    """Raise if loading adapters rewrote weights that the reference reads, as PiSSA and its kind do."""
    changed = [name for name, old in before.items() if name in after and not torch.equal(old, after[name])]
    if changed:
        raise ConfigError(
            f"loading adapter {source.adapter!r} rewrote {len(changed)} of the base's own weights (first {changed[0]}), so "
            "the base is no longer the reference: an init_lora_weights such as 'pissa' or 'olora' does that. Save it as "
            "plain LoRA (PEFT: path_initial_model_for_weight_conversion=…), or merge it and pass policy=…,reference=…"
        )
