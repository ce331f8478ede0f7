"""Adapters onto the base that both sides of a pair share, with what PEFT does not check.

PEFT warns of tensors that find no layer and rewrites a base's weights for some ways of initialising; either would give
answers of models that nobody trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from aad_plugin.errors import ConfigError
from aad_plugin.pair_source import PairSource
from aad_plugin.sides import OneBase

__all__ = ["attach_adapters"]

# Numbers compared of each weight before and after adapters are loaded.
_SAMPLED = 4096


def attach_adapters(base: PreTrainedModel, source: PairSource, revision: str | None, *, pickles: bool) -> OneBase:
    """Load a pair's adapters onto its base and check that all of them arrived and nothing else changed.

    Args:
        base: the loaded base; changed in place. revision: of an adapter on the hub.
        pickles: whether adapters may be read from pickle files, which can run code.
    Raises:
        ConfigError: an adapter does not fit, tensors of it found no layer, or loading rewrote the base's weights.
    """
    from peft import PeftModel

    before = _sampled_weights(base)
    adapters = {"policy": source.adapter}
    if source.reference_adapter:
        adapters["reference"] = source.reference_adapter
    if not pickles:
        for path in adapters.values():
            _refuse_pickles(Path(str(path)).expanduser())
    options = {"revision": revision} if revision and not Path(source.adapter or "").is_dir() else {}
    try:
        model = PeftModel.from_pretrained(base, str(source.adapter), adapter_name="policy", **options)
        # PEFT only warns of tensors that find no layer, and says which only when an adapter is loaded by itself.
        for name, path in adapters.items():
            own = options if name == "policy" else {}
            _check_tensors(model, name, str(path), model.load_adapter(path, adapter_name=name, **own))
    except ConfigError:
        raise
    except (ImportError, OSError, ValueError, RuntimeError, TypeError) as e:
        reason = " ".join(str(e).split())[:300]
        raise ConfigError(f"adapter {source.adapter!r} does not fit base {source.base!r}: {reason}") from e
    _check_base(source, before, _sampled_weights(model.get_base_model()))
    return OneBase(model.eval(), "policy", "reference" if source.reference_adapter else None)


def _refuse_pickles(folder: Path) -> None:
    if (folder / "adapter_model.bin").is_file() and not (folder / "adapter_model.safetensors").is_file():
        raise ConfigError(
            f"adapter {folder} holds its weights as a pickle (adapter_model.bin), which can run code when it is read: save "
            "it as safetensors, or pass use_safetensors=false if you trust it"
        )


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


def _sampled_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return some numbers of every weight that is the base's own, by its name without PEFT's wrapping."""
    found = {}
    for name, weight in model.named_parameters():
        if "lora_" in name or ".modules_to_save." in name or weight.device.type == "meta":
            continue
        plain = name.replace(".base_layer", "").replace(".original_module", "")
        flat = weight.detach().flatten()
        found[plain] = flat[:: max(1, len(flat) // _SAMPLED)].clone()
    return found


def _check_base(source: PairSource, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    """Raise if loading adapters rewrote weights that the reference reads, as PiSSA and its kind do."""
    changed = [name for name, old in before.items() if name in after and not torch.equal(old, after[name])]
    if changed:
        raise ConfigError(
            f"loading adapter {source.adapter!r} rewrote {len(changed)} of the base's own weights (first {changed[0]}), so "
            "the base is no longer the reference: an init_lora_weights such as 'pissa' or 'olora' does that. Save it as "
            "plain LoRA (PEFT: path_initial_model_for_weight_conversion=…), or merge it and pass policy=… reference=…"
        )
