"""The demo pair that sees: its reference is put together in the cache, its policy's adapter is shipped.

The reference is the demo base with a small tower in front of it and a LoRA adapter from SFT merged into it
(``vision_v1/reference``), an ordinary folder for transformers; the policy is a LoRA adapter from DPO on its language model
alone. How they were made: ``experiments/demo_vision`` of the source tree.

    python -c "from aad_plugin.demo.vision import vision_reference_path; print(vision_reference_path())"
"""

from __future__ import annotations

import json
from pathlib import Path

from aad_plugin.demo.assets import MANIFEST, base_model_path, kept, write_manifest
from aad_plugin.errors import AssetError
from aad_plugin.files.marks import file_sha256

PRESET, CACHED = "demo-vision", "demo-vision-1"
"""The preset, and its reference's folder in the cache (about 540 MB)."""
ALPHA = 0.3
"""The preset's alpha: the better one of 0.1 and 0.3 on held-out pictures, see its README."""
SHIPPED_VISION = Path(__file__).parent / "vision_v1"
TOWER, ADAPTER = "tower.safetensors", "adapter_model.safetensors"
_REFERENCE = (TOWER, ADAPTER, "adapter_config.json")


def vision_adapter_path() -> Path:
    """Return the policy's DPO adapter; raises `AssetError` if the installation lacks it."""
    _check(SHIPPED_VISION / "policy", (ADAPTER, "adapter_config.json"))
    return SHIPPED_VISION / "policy"


def vision_reference_path(*, quiet: bool = False, shipped: Path | None = None) -> Path:
    """Return a folder with the reference, built on first use from the demo base (which may have to be fetched).

    Args:
        quiet: show no progress. shipped: folder of the parts; default: the package's.
    Raises:
        AssetError: a part is missing, the base cannot be had, or the cache is not writable.
    """
    shipped = shipped or SHIPPED_VISION
    _check(shipped / "reference", _REFERENCE)
    base = base_model_path(quiet=quiet)
    below = json.loads((base / MANIFEST).read_text(encoding="utf-8"))["files"]["model.safetensors"]["sha256"]
    parts = [file_sha256(shipped / "reference" / part)[:16] for part in _REFERENCE]
    origin = f"base {below[:16]}, parts {' '.join(parts)}"

    def build(work: Path) -> Path:
        out = work / "model"
        put_together(base, shipped / "reference", out)
        write_manifest(out, origin)
        return out

    return kept(CACHED, build, origin=origin)


def put_together(base: Path, parts: Path, out: Path) -> None:
    """Write base, tower and merged adapter as one checkpoint with its processor into the folder ``out``.

    In float32: many processors have no 16-bit products, and AAD ranks differences that bf16 rounds.
    """
    from safetensors.torch import load_file

    from aad_plugin.demo.vision_model import load_tower, merge_lora, new_vision_model, vision_processor

    model = new_vision_model(base)
    settings = json.loads((parts / "adapter_config.json").read_text(encoding="utf-8"))
    try:
        load_tower(model, load_file(parts / TOWER))
        merge_lora(model, load_file(parts / ADAPTER), settings["lora_alpha"] / settings["r"])
    except (ValueError, KeyError, RuntimeError) as error:
        raise AssetError(f"{parts} does not fit the demo base: {error}; reinstall aad_plugin") from error
    model.save_pretrained(out)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes 0600, and a shared cache has other readers
    vision_processor(base).save_pretrained(out)


def _check(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise AssetError(f"{folder / name} is missing: this installation of aad_plugin is incomplete, reinstall it")
