"""A pair whose tokens are a picture's: AAD under the picture's own mask, written as pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aad_plugin import AlignedPair
from aad_plugin.errors import ConfigError
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.drawing import allowed_tokens, draw
from tests.toys import model_logits
from tests.vision.families import FAMILIES

AREA = 32 * 24  # pixels


def pair_of(name: str) -> AlignedPair:
    family = FAMILIES[name]
    return AlignedPair(Checkpoints(family.model(0), family.model(1)), processor=family.processor())


def test_a_picture_is_the_naive_loops_under_its_mask() -> None:
    pair = pair_of("emu3")
    inputs = pair.processor(text=["a house"], return_tensors="pt", return_for_image_generation=True, image_area=AREA)
    height, width = (int(size) for size in inputs["image_sizes"][0])
    allowed = allowed_tokens(pair, height, width)
    models = pair.sides.models()
    policy, reference = model_logits(models["policy"]), model_logits(models["reference"])
    prefix = inputs["input_ids"][0].tolist()
    new = (width + 1) * height + 3
    chosen = []
    for _ in range(new):
        own, other = policy(prefix), reference(prefix)
        own, other = own - own.max(), other - other.max()
        scores = np.where(own >= np.log(0.1), own - other, own - 1000)
        may = allowed(0, torch.tensor(prefix))
        chosen.append(max(may, key=lambda token: scores[token]))
        prefix.append(chosen[-1])
    tokens = pair.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=new,
        prefix_allowed_tokens_fn=allowed, pad_token_id=257,
    )  # fmt: skip
    assert tokens[0, -new:].tolist() == chosen
    assert len(set(chosen)) > 4
    image = draw(pair, "a house", area=AREA)
    assert image.size == (width * 8, height * 8) and image.mode == "RGB"
    assert image.tobytes() != draw(pair, "a house", area=AREA, strategy="reference").tobytes()


@pytest.mark.parametrize(
    ("name", "why"),
    [("chameleon", "takes Chameleon's picture tokens out"), ("llava", "LlavaForConditionalGeneration has no decoder")],
)
def test_pairs_that_write_text_alone_say_so(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        draw(pair_of(name), "a house")
