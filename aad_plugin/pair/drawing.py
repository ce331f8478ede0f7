"""Pictures that a pair writes: models whose next tokens may be a picture's decode them by AAD like words.

    draw(pair, "a red house").save("house.png")

Which token may follow where (rows of codes, the end of a row, the end of a picture) is a mask over the pair's scores; codes
become pixels by the policy's own decoder. Emu3 works so. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from aad_plugin.errors import ConfigError
from aad_plugin.pair.model import AlignedPair

_WHY_NOT = {
    "chameleon": "transformers takes Chameleon's picture tokens out of its logits",
    "janus": "Janus writes pictures by a loop and a head of its own",
}
_END_OF_ROW = "<|extra_200|>"


AREA = 518_400  # pixels, Emu3's own


def draw(
    pair: AlignedPair,
    prompt: str,
    *,
    ratio: str = "1:1",
    area: int = AREA,
    strategy: str | None = None,
    **settings: Any,
) -> Any:
    """Return the picture that a pair writes for a prompt.

    Args:
        prompt: what the picture is to show. ratio: of width to height. area: pixels, about; 720 × 720 is Emu3's own.
        strategy, **settings: as for :func:`aad_plugin.answer`, of strategies that choose token by token.
    Returns:
        a Pillow image.
    Raises:
        ConfigError: a model without a decoder for pictures, an empty prompt, too little room.
    """
    check_draws(pair)
    if area < 1:
        raise ConfigError(f"the picture's area must be at least one pixel, got {area}")
    if not prompt.strip():
        raise ConfigError("the prompt is empty: expected what the picture is to show")
    inputs = pair.processor(
        text=[prompt],
        return_tensors="pt",
        padding=True,
        return_for_image_generation=True,
        ratio=ratio,
        image_area=area,
    )
    height, width = (int(size) for size in inputs["image_sizes"][0])
    ids, mask = inputs["input_ids"].to(pair.device), inputs["attention_mask"].to(pair.device)
    new = (width + 1) * height + 3
    context = pair.config.max_position_embeddings
    if context and ids.shape[1] + new > context:
        raise ConfigError(
            f"a picture of {height} × {width} codes takes {new} tokens; with the prompt it exceeds the context of "
            f"{context}: ask for less than {area} pixels"
        )
    tokens = pair.generate(
        input_ids=ids, attention_mask=mask, strategy=strategy, max_new_tokens=new, do_sample=False,
        prefix_allowed_tokens_fn=allowed_tokens(pair, height, width), **settings,
    )  # fmt: skip
    with torch.no_grad():
        pixels = pair.sides.policy.decode_image_tokens(
            image_tokens=tokens[:, ids.shape[1] :], height=height, width=width
        )
    return pair.processor.postprocess(list(pixels.float()), return_tensors="PIL.Image.Image")["pixel_values"][0]


def check_draws(pair: AlignedPair) -> None:
    """Raise ConfigError unless a pair's tokens can be a picture's."""
    model = pair.sides.policy
    kind = model.config.model_type
    if not hasattr(model, "decode_image_tokens") or kind in _WHY_NOT or pair.processor is None:
        why = _WHY_NOT.get(kind, f"{type(model).__name__} has no decoder for pictures")
        raise ConfigError(f"this pair writes text alone, {why}: a picture takes a pair such as Emu3's")


def allowed_tokens(pair: AlignedPair, height: int, width: int) -> Callable[[int, Tensor], Sequence[int]]:
    """Return what tells ``generate`` which tokens may follow: ``height`` rows of ``width`` codes, and their ends."""
    own = pair.processor.tokenizer
    codes = [int(token) for token in pair.sides.policy.vocabulary_mapping.image_tokens]
    start = own.image_wrapper_token_id
    end_of_row = own.convert_tokens_to_ids(_END_OF_ROW)
    ends = (own.eof_token_id, own.eoi_token_id, own.eos_token_id)
    pad = own.pad_token_id if own.pad_token_id is not None else own.eos_token_id

    def allowed(row: int, ids: Tensor) -> Sequence[int]:
        place = len(ids) - int((ids == start).nonzero()[0])  # from 1, of the token to come
        after = place - (width + 1) * height
        if after > 0:
            return [ends[after - 1] if after <= len(ends) else pad]
        return [end_of_row] if place % (width + 1) == 0 else codes

    return allowed
