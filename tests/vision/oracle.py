"""The naive two-model loop over prompts with pictures: each model alone, one row, no cache, pictures at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from aad_plugin.pair.distortion import distorted
from aad_plugin.pair.multimodal import take_multimodal
from aad_plugin.settings import DecodingSettings
from tests.toys import EOS, Logits, NaiveRun, naive_aad
from tests.vision.families import Family, picture

_OF_TOKENS = ("token_type_ids", "mm_token_type_ids")

# Text and pictures of a padded batch of four: two pictures, one, none, one.
PROMPTS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("compare {0}{0} please", (1, 2)),
    ("{0}?", (3,)),
    ("no picture at all", ()),
    ("what does this show: {0}", (4,)),
)


def encode(family: Family, prompts: Sequence[tuple[str, tuple[int, ...]]], shift: int = 0) -> dict[str, Any]:
    """A processor's inputs for prompts whose pictures are numbered; another ``shift`` gives other pictures."""
    processor = family.processor()
    texts = [text.format(family.image) for text, _ in prompts]
    # Emu3 pads pictures to the largest of a batch and encodes the padding with them, so that its own batches differ.
    sizes = (lambda number: (32, 32)) if family.name == "emu3" else (lambda number: (24 + 8 * number, 32))
    pictures = [[picture(number + shift, sizes(number)) for number in numbers] for _, numbers in prompts]
    images = pictures if any(pictures) else None
    return dict(processor(text=texts, images=images, return_tensors="pt", padding=True))


def seeing_logits(model: Any, encoded: dict[str, Any], ids: int | None = None) -> Logits:
    """The last row of logits of one model over one prompt's growing prefix, float64; of the first so many ``ids``."""
    shown = {name: value for name, value in encoded.items() if name not in ("input_ids", "attention_mask")}

    def read(prefix: list[int]) -> np.ndarray:
        own = {
            name: F.pad(value, (0, len(prefix) - value.shape[1])) if name in _OF_TOKENS else value
            for name, value in shown.items()
        }
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prefix]), use_cache=False, **own).logits
        return logits[0, -1, :ids].double().numpy()

    return read


def noisy(model: Any, encoded: dict[str, Any], settings: DecodingSettings) -> dict[str, Any]:
    """A processor's inputs with vcd's noise on the pixels."""
    shown = take_multimodal(dict(encoded), model, encoded["input_ids"])
    assert shown is not None
    return {**encoded, "pixel_values": distorted(model, shown, settings).shown["pixel_values"]}


def naive(
    policy: Any,
    reference: Any,
    family: Family,
    prompt: tuple[str, tuple[int, ...]],
    steps: int,
    alpha: float,
    shift: int = 0,
) -> NaiveRun:
    """The paper's loop over one prompt."""
    encoded = encode(family, [prompt], shift)
    prefix = encoded["input_ids"][0].tolist()
    sides = seeing_logits(policy, encoded), seeing_logits(reference, encoded)
    return naive_aad(*sides, prefix, steps, alpha, EOS)


def same(run: NaiveRun, got: Sequence[int], tolerance: float = 1e-4) -> bool:
    """Whether tokens are the naive ones up to where the naive loop's own choice was nearer than the tolerance."""
    sure = next((i for i, margin in enumerate(run.margins) if margin < tolerance), len(run.tokens))
    assert sure >= min(2, len(run.tokens)), "the naive loop decides nothing here: take another seed"
    return list(got[:sure]) == run.tokens[:sure]
