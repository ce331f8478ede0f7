"""What a pair that sees is held against besides text: two prompts with one and two pictures, read by each model alone.

The same checks run over them as over text (`proof_checks.py`). What a model alone makes of a prompt, with its
positions and masks, is transformers' own doing: one row as the processor gives it, no padding, no cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aad_plugin.errors import ConfigError, NonFiniteLogits
from aad_plugin.pair.encoding import Rendered, encode, image_token, render
from aad_plugin.pair.multimodal import MultimodalInputs, positions_of, without_bans
from aad_plugin.pair.plain_readings import STEPS, Text, relative, tolerance
from aad_plugin.pair.reading import Role
from aad_plugin.pair.sides import ReadPair
from aad_plugin.sources.images import read_picture

_SIDE = 48  # pixels


def make_picture_text(pair: ReadPair) -> Text:
    """Return two prompts with pictures and two more tokens each, read by each model alone.

    Raises:
        NonFiniteLogits: a model alone gives NaN or inf.
    """
    prompts = [_prompt(pair, "What does this show?", 1), _prompt(pair, "Compare them.", 2)]
    batch = encode(pair, prompts)
    assert batch.multimodal is not None
    follow = _words(pair).to(batch.ids.device)
    ids = torch.cat([batch.ids, follow], dim=1)
    mask = torch.cat([batch.mask, torch.ones_like(follow)], dim=1)
    rows = [encode(pair, [prompt]) for prompt in prompts]
    truth: dict[Role, Tensor] = {}
    noise = 0.0
    for role in pair.sides.roles:
        with pair.sides.role(role) as model:
            alone = []
            for row, more in zip(rows, follow, strict=True):
                assert row.multimodal is not None
                whole = torch.cat([row.ids, more[None]], dim=1)
                alone.append(_read(model, whole, row.multimodal, pair.vocab_size, STEPS + 1))
                again = _read(model, whole[:, :-1], row.multimodal, pair.vocab_size, STEPS)
                noise = max(noise, relative(again, alone[-1][:-1]))
            truth[role] = torch.stack(alone)
            if not bool(truth[role].isfinite().all()):
                raise NonFiniteLogits(f"the {role}'s logits of a prompt with pictures hold NaN or inf")
    positions = positions_of(pair.sides.policy, ids, mask, batch.multimodal)
    return Text(ids, mask, truth, *tolerance(pair, truth, noise), batch.multimodal, positions)


def _read(model: Any, ids: Tensor, multimodal: MultimodalInputs, vocab_size: int, keep: int) -> Tensor:
    """Return (keep, V) float32 logits of the last positions of one row."""
    shown = multimodal.to(model.device).arguments(ids.shape[1], model.dtype)
    logits = without_bans(model, model(input_ids=ids.to(model.device), use_cache=False, **shown).logits)
    return logits[0, -keep:, :vocab_size].float().cpu()


def _words(pair: ReadPair) -> Tensor:
    """(2, STEPS) tokens to go on with: of a sentence, since random ones may stand for pictures."""
    ids = pair.tokenizer("The picture shows a small house", add_special_tokens=False)["input_ids"]
    return torch.tensor([ids[:STEPS], ids[-STEPS:]])


def _prompt(pair: ReadPair, question: str, pictures: int) -> Rendered:
    shown = [read_picture(_picture(number)) for number in range(pictures)]
    parts = [{"type": "image", "image": picture} for picture in shown]
    try:
        return render(pair, [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}], None, 0)
    except ConfigError:  # no template, or one for fewer pictures: the processor itself reads a text with places
        return Rendered((image_token(pair.processor) or "") * pictures + question, True, tuple(shown))


def _picture(seed: int) -> Any:
    from PIL import Image

    colours = torch.randint(0, 256, (4, 4, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(colours.numpy()).resize((_SIDE, _SIDE))
