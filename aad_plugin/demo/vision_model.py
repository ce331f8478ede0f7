"""The demo model that sees: Idefics3's class with a small tower over the demo base, and its processor.

The tower has four layers of width 128 over 6 x 6 patches of 16 pixels; the connector makes one token of four patches, so a
picture of 96 x 96 pixels is nine tokens. Reserved tokens of the base get new names (`TOKENS`), so its vocabulary keeps its
size. A chat is question, newline, space, answer, ``<|im_end|>``: short, since every token costs, and the same text that a
task makes of a question without a chat template.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SIDE, GRID = 96, 3
PATCH, SCALE, WIDTH, LAYERS = 16, 2, 128, 4
TOKENS = {
    "<empty_output>": "<image>",
    "<jupyter_script>": "<fake_token_around_image>",
    "<jupyter_output>": "<global-img>",
    "<jupyter_code>": "<end_of_utterance>",
}
"""The base's reserved token -> what this model calls it."""
TEMPLATE = (
    "{% for message in messages %}{{ ' ' if message['role'] == 'assistant' else '' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] | trim }}"
    "{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>' if message['role'] == 'assistant' else '\n' }}{% endfor %}"
)


def vision_processor(base: Path) -> Any:
    """Return the processor over the base's tokenizer; base: its folder."""
    from transformers import Idefics3Processor, PreTrainedTokenizerFast
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    images = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_renamed(base), bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>", padding_side="left", model_max_length=8192,
        extra_special_tokens={
            "image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>",
        },
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    return Idefics3Processor(images, tokenizer, image_seq_len=GRID**2, chat_template=TEMPLATE)


def _renamed(base: Path) -> Any:
    """The base's tokenizer with `TOKENS`."""
    from tokenizers import Tokenizer

    text = (base / "tokenizer.json").read_text(encoding="utf-8")
    for old, new in TOKENS.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    return Tokenizer.from_str(text)


def new_vision_model(base: Path, seed: int = 0) -> Any:
    """Return the model in float32: the base's weights under a tower and a connector drawn from the seed."""
    from transformers import AutoModelForCausalLM, Idefics3Config, Idefics3ForConditionalGeneration
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig

    text = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    vision = Idefics3VisionConfig(
        hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, image_size=SIDE,
        patch_size=PATCH,
    )  # fmt: skip
    config = Idefics3Config(
        vision_config=vision, text_config=text.config, scale_factor=SCALE, pad_token_id=text.config.pad_token_id,
        image_token_id=vision_processor(base).image_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Idefics3ForConditionalGeneration(config).float()  # parts of it are made in the base's own dtype
    model.model.text_model.load_state_dict(text.model.state_dict())
    model.tie_weights()
    model.generation_config = text.generation_config
    return model


def load_tower(model: Any, weights: dict[str, Tensor]) -> None:
    """Put tower and connector into a model; weights: by their names in it (``model.vision_model.…``)."""
    wanted = {name for name in model.state_dict() if name.startswith(("model.vision_model.", "model.connector."))}
    if wanted != set(weights):
        raise ValueError(f"expected the weights of tower and connector, {sorted(wanted ^ set(weights))[:3]} differ")
    model.load_state_dict(weights, strict=False)


@torch.no_grad()
def merge_lora(model: Any, weights: dict[str, Tensor], scaling: float) -> None:
    """Add a LoRA adapter to a model's weights in place; weights: as PEFT saves them. scaling: lora_alpha / r."""
    start, end = "base_model.model.", ".lora_A.weight"
    for name, down in weights.items():
        if name.endswith(end):
            up = weights[name.removesuffix(end) + ".lora_B.weight"]
            place = model.get_submodule(name.removeprefix(start).removesuffix(end))
            place.weight += scaling * (up.float() @ down.float())
