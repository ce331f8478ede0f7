"""Noisy copies of the pictures that a batch of prompts shows, for visual contrastive decoding (arXiv 2311.16922).

Noise is that of a diffusion after some of its thousand steps, added to the normalised pixels that the model itself would
read: x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε. It depends on nothing but the picture's own pixels, the step and the seed, so a
picture has the same noise alone, in any batch and on any device. Knows nothing of scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache as once
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aad_plugin.errors import ConfigError
from aad_plugin.pair.multimodal import MultimodalInputs, is_prompt
from aad_plugin.pair.sides import Sides
from aad_plugin.pair.step import Step, repeated
from aad_plugin.settings import NOISE_STEPS, DecodingSettings

_PIXELS = "pixel_values"
_OTHER = ("pixel_values_videos", "input_features", "audio_values")
_SCHEDULE = (1e-5, 5e-3)  # of β, along a sigmoid from -6 to 6: VCD's own code, vcd_utils/vcd_add_noise.py


def distorted(model: PreTrainedModel, shown: MultimodalInputs, settings: DecodingSettings) -> MultimodalInputs:
    """Return what a batch shows with noise on every picture; the rest is shared.

    Args:
        model: whose processor made the tensors. settings: noise_step and seed are read.
    Raises:
        ConfigError: videos or sound, or pixels in a layout that is not known.
    """
    for name in _OTHER:
        if name in shown.shown:
            raise ConfigError(f"strategy='vcd' contrasts pictures with noisy ones, got {name}: use another strategy")
    pixels = shown.shown.get(_PIXELS)
    if pixels is None:
        raise ConfigError(f"strategy='vcd' needs pictures as {_PIXELS}, got {', '.join(shown.shown)}")
    values = pixels.detach().to("cpu", torch.float32, copy=True)
    for part in _pictures(model, values, shown):
        _add_noise(part, settings)
    return replace(shown, shown={**shown.shown, _PIXELS: values.to(pixels.device, pixels.dtype)})


class Contrast:
    """Of one ``generate`` call: what its prompts show, and the noisy copies, which are made once."""

    def __init__(self) -> None:
        self._made: tuple[MultimodalInputs, MultimodalInputs] | None = None

    def of(
        self, model: PreTrainedModel, step: Step, settings: DecodingSettings
    ) -> tuple[MultimodalInputs | None, MultimodalInputs | None]:
        """Return the pictures that this step reads and their noisy copies, both None after the prompt.

        Raises:
            ConfigError: a prompt without a picture, or pictures that get no noise.
        """
        if not is_prompt(step.cache):
            return None, None
        shown = step.multimodal
        _refuse_without_pictures(model, step.input_ids, shown)
        assert shown is not None, "refused above"
        if self._made is None or self._made[0] is not shown:
            self._made = shown, distorted(model, shown, settings)
        return self._made


def read_both(
    sides: Sides, contrast: tuple[MultimodalInputs | None, MultimodalInputs | None], step: Step
) -> list[Tensor]:
    """Return the policy's (B, K, V) logits twice, of one forward: with the pictures, and with their noisy copies.

    Args:
        contrast: of :class:`Contrast`. step: its cache holds the rows of both, reading after reading, or is None.
    """
    seen, noisy = contrast
    both = None if seen is None or noisy is None else _one_after_other(seen, noisy)
    with sides.exact():
        (rows,) = sides.logits(("policy",), replace(repeated(step, 2).alone(0), multimodal=both))
    return list(rows.split(len(step.input_ids)))  # (2B, K, V) -> two of (B, K, V)


def _one_after_other(first: MultimodalInputs, second: MultimodalInputs) -> MultimodalInputs:
    """Return what a batch shows whose rows are those of two batches; pictures are laid out along the first axis."""

    def joined(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.cat([value, theirs[name]]) for name, value in ours.items()}

    shown, of_tokens = joined(first.shown, second.shown), joined(first.of_tokens, second.of_tokens)
    return MultimodalInputs(first.rows + second.rows, shown, of_tokens)


def _refuse_without_pictures(model: PreTrainedModel, input_ids: Tensor, shown: MultimodalInputs | None) -> None:
    """Raise ConfigError for a prompt that shows no picture: nothing would be contrasted, and nobody would be told."""
    if shown is None:
        raise ConfigError(
            "strategy='vcd' contrasts a picture with a noisy copy of it, and these prompts show none: add a picture "
            "(for a pair that sees), or use another strategy"
        )
    place = getattr(model.config, "image_token_id", None)
    bare = [] if place is None else (input_ids != place).all(-1).nonzero().flatten().tolist()
    if bare:
        raise ConfigError(
            f"strategy='vcd' contrasts a picture with a noisy copy of it, and prompt {bare[0] + 1} of {len(input_ids)} "
            "shows none: add a picture, or use another strategy"
        )


@once
def _alpha_bar() -> Tensor:
    """(1000,) float64, the share of a picture's variance that is left after each step."""
    low, high = _SCHEDULE
    betas = torch.linspace(-6, 6, NOISE_STEPS, dtype=torch.float64).sigmoid() * (high - low) + low
    return (1 - betas).cumprod(0)


def _pictures(model: PreTrainedModel, values: Tensor, shown: MultimodalInputs) -> list[Tensor]:
    """Return (…, F, N) views of ``values``, one for each picture or tile of one; F are frames of a still picture, which get
    one noise. Zeros that pad a tile on its right and below belong to no view."""
    grid = shown.shown.get("image_grid_thw")
    if values.ndim == 2 and grid is not None:  # (patches of all pictures, channels · frames · patch²), Qwen's layout
        vision = model.config.vision_config
        frames = int(getattr(vision, "temporal_patch_size", 1))
        channels = int(getattr(vision, "in_channels", None) or getattr(vision, "in_chans", None) or 3)
        patches = values.view(len(values), channels, frames, -1)
        return list(patches.split(grid.prod(-1).tolist()))
    if values.ndim < 4:
        raise ConfigError(
            f"strategy='vcd' does not know how {model.config.model_type} lays pictures out ({_PIXELS} of shape "
            f"{tuple(values.shape)}): use another strategy"
        )
    tiles = values.view(-1, *values.shape[-3:])  # (U, C, H, W)
    return [part for part in map(_trimmed, tiles) if part.numel()]


def _trimmed(tile: Tensor) -> Tensor:
    """Return a (C, h, 1, w) view of a (C, H, W) tile without its trailing rows and columns of zeros."""
    filled = tile.ne(0).any(0)
    rows, columns = filled.any(1).nonzero(), filled.any(0).nonzero()
    height = int(rows[-1]) + 1 if len(rows) else 0
    width = int(columns[-1]) + 1 if len(columns) else 0
    return tile[:, :height, None, :width]


def _add_noise(part: Tensor, settings: DecodingSettings) -> None:
    """Write noise into a view of (…, F, N) float32 values, the same for all F."""
    told = hashlib.sha256(f"{settings.seed} {tuple(part.shape)}".encode())
    told.update(part.contiguous().numpy().tobytes())
    generator = torch.Generator().manual_seed(int.from_bytes(told.digest()[:8], "big") >> 1)
    still: Any = (*part.shape[:-2], 1, part.shape[-1])
    noise = torch.randn(still, generator=generator)
    left = _alpha_bar()[settings.noise_step]
    part.copy_(float(left.sqrt()) * part + float((1 - left).sqrt()) * noise)
