"""From TRL's folders to the parts that the package ships, in float16: tower and connector, SFT adapter, DPO adapter."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from aad_plugin.demo.vision import ADAPTER, TOWER
from experiments.demo_pair.training import CONFIG_KEYS

BASE_NAME = "aad_plugin/demo-vision"
_SAVED = "base_model.model.model.connector."  # PEFT's name of a module that was trained whole


def export_reference(tower: dict[str, Tensor], sft: Path, out: Path) -> None:
    """Write tower, connector and SFT adapter.

    Args:
        tower: as `saved_tower` returns it. sft: TRL's output folder; its connector is the one that counts. out: new folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    adapter = load_file(sft / ADAPTER)
    tower = dict(tower)
    for name in [name for name in adapter if name.startswith(_SAVED)]:
        tower[name.removeprefix("base_model.model.")] = adapter.pop(name)
    _save(tower, out / TOWER)
    _save(adapter, out / ADAPTER)
    _configure(sft, out)


def export_policy(dpo: Path, out: Path) -> None:
    """Write the DPO adapter."""
    out.mkdir(parents=True, exist_ok=True)
    _save(load_file(dpo / ADAPTER), out / ADAPTER)
    _configure(dpo, out)


def _save(weights: dict[str, Tensor], file: Path) -> None:
    save_file({n: t.to(torch.float16).contiguous() for n, t in weights.items()}, file, metadata={"format": "pt"})
    file.chmod(0o644)


def _configure(trained: Path, out: Path) -> None:
    """The adapter's settings, without this machine's paths and without what is unset."""
    config = json.loads((trained / "adapter_config.json").read_text(encoding="utf-8"))
    kept = {key: config[key] for key in CONFIG_KEYS if config.get(key) not in (None, False, {}, [])}
    kept.pop("modules_to_save", None)  # the connector is shipped with the tower
    kept |= {"base_model_name_or_path": BASE_NAME, "inference_mode": True, "target_modules": config["target_modules"]}
    (out / "adapter_config.json").write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
