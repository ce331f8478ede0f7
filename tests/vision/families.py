"""Tiny random models that see, a processor for each, and pictures; every family builds in a fraction of a second.

Nothing is fetched: tokenizers, processors and chat templates are put together here, of the classes that checkpoints of the
family have.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from aad_plugin.sources.processors import image_only
from tests.toys import EOS, PAD, SPREAD, byte_tokenizer

ROOM = 320  # token ids of every toy; its tokenizer has fewer
SIDE = 32  # pixels of a picture as models see it
_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
_TEXT: dict[str, Any] = dict(
    vocab_size=ROOM, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=EOS, pad_token_id=PAD, bos_token_id=None,
    tie_word_embeddings=False, initializer_range=0.1,
)  # fmt: skip


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture of coloured squares, other ones for each seed."""
    squares = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(squares).resize(size, Image.Resampling.NEAREST)


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Attributes:
        model: seed -> a model in eval mode. processor: a new one. image: what stands for a picture in a prompt's text.
    """

    name: str
    model: Callable[[int], PreTrainedModel]
    processor: Callable[[], ProcessorMixin]
    image: str


def tokenizer(**tokens: str) -> PreTrainedTokenizerFast:
    """The byte tokenizer with a family's own tokens: the name of its attribute -> the token."""
    fast = byte_tokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=fast.backend_tokenizer, eos_token="<eos>", pad_token="<pad>", padding_side="left",
        extra_special_tokens=tokens,
    )  # fmt: skip


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"transformers.models.{module}"), name)


def _seeing(build: Callable[[], PreTrainedModel], seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = build().eval()
    with torch.no_grad():  # pictures weigh as much as words
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("vision", "visual", "projector", "connector")) and parameter.ndim > 1:
                parameter.normal_(std=0.2)
    _spread(model)
    return model


def _spread(model: PreTrainedModel) -> None:
    """As `toys.spread`, of what the head alone gives: Chameleon takes its image tokens out of its logits."""
    head = model.get_output_embeddings()
    probe = torch.randint(0, 256, (4, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape) * torch.randn(len(head.weight), 1).mul(0.5).exp())
        hidden = model.get_decoder()(probe).last_hidden_state
        head.weight.mul_(SPREAD / head(hidden).std(-1).mean())


def _with_template(processor: ProcessorMixin, image: str) -> ProcessorMixin:
    processor.chat_template = processor.tokenizer.chat_template = _TEMPLATE.replace("IMAGE", image)
    return processor


# ------------------------------------------------------------------------------------------------ LLaVA


def _llava(seed: int) -> PreTrainedModel:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE, patch_size=8,
        projection_dim=32,
    )  # fmt: skip
    ids = _llava_processor().tokenizer
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**_TEXT), image_token_id=ids.image_token_id, vision_feature_layer=-1,
        tie_word_embeddings=False,
    )  # fmt: skip
    return _seeing(lambda: LlavaForConditionalGeneration(config), seed)


def _llava_processor() -> ProcessorMixin:
    images = _class("clip.image_processing_pil_clip", "CLIPImageProcessorPil")(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    processor = _class("llava.processing_llava", "LlavaProcessor")(
        images, tokenizer(image_token="<image>"), patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, image_token="<image>",
    )  # fmt: skip
    return _with_template(processor, "<image>")


# ------------------------------------------------------------------------------- Idefics3 and SmolVLM


def _idefics(kind: str, seed: int) -> PreTrainedModel:
    from transformers import LlamaConfig

    names = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}
    config_class = _class(f"{kind}.configuration_{kind}", f"{names[kind]}Config")
    vision_class = _class(f"{kind}.configuration_{kind}", f"{names[kind]}VisionConfig")
    model_class = _class(f"{kind}.modeling_{kind}", f"{names[kind]}ForConditionalGeneration")
    vision = vision_class(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE, patch_size=8
    )
    config = config_class(
        vision_config=vision, text_config=LlamaConfig(**_TEXT), scale_factor=2, pad_token_id=PAD,
        image_token_id=_idefics_tokenizer().image_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    return _seeing(lambda: model_class(config), seed)


def _idefics_processor() -> ProcessorMixin:
    images = _class("idefics3.image_processing_pil_idefics3", "Idefics3ImageProcessorPil")(**_IDEFICS_IMAGES)
    processor = _class("idefics3.processing_idefics3", "Idefics3Processor")(
        images, _idefics_tokenizer(), image_seq_len=4
    )
    return _with_template(processor, "<image>")


def _smolvlm_processor() -> ProcessorMixin:
    """SmolVLM's own, which wants num2words, without its part for videos."""
    images = _class("smolvlm.image_processing_pil_smolvlm", "SmolVLMImageProcessorPil")(**_IDEFICS_IMAGES)
    own = image_only(_class("smolvlm.processing_smolvlm", "SmolVLMProcessor"))
    return _with_template(own(images, _idefics_tokenizer(), image_seq_len=4), "<image>")


_IDEFICS_IMAGES: dict[str, Any] = dict(
    size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
)


def _idefics_tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer(
        image_token="<image>", fake_image_token="<fake_token_around_image>", global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- Qwen2-VL


def _qwen(seed: int) -> PreTrainedModel:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    ids = _qwen_processor().tokenizer
    text = {**_TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
    vision = {
        "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
    }  # fmt: skip
    config = Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=ids.image_token_id, video_token_id=ids.video_token_id,
        vision_start_token_id=ids.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=ids.convert_tokens_to_ids("<|vision_end|>"), tie_word_embeddings=False,
    )  # fmt: skip
    return _seeing(lambda: Qwen2VLForConditionalGeneration(config), seed)


def _qwen_processor() -> ProcessorMixin:
    images = _class("qwen2_vl.image_processing_pil_qwen2_vl", "Qwen2VLImageProcessorPil")(
        patch_size=8, merge_size=2, min_pixels=16 * 16, max_pixels=48 * 48
    )
    own = tokenizer(
        image_token="<|image_pad|>", video_token="<|video_pad|>", start="<|vision_start|>", end="<|vision_end|>"
    )
    processor = image_only(_class("qwen2_vl.processing_qwen2_vl", "Qwen2VLProcessor"))(images, own)
    return _with_template(processor, "<|vision_start|><|image_pad|><|vision_end|>")


# -------------------------------------------------------------------------------------------- Gemma 3


def _gemma(seed: int) -> PreTrainedModel:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

    ids = _gemma_processor().tokenizer
    text = Gemma3TextConfig(
        **_TEXT, head_dim=8, query_pre_attn_scalar=8, sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE, patch_size=8,
        vision_use_head=False,
    )  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=ids.image_token_id,
        image_token_id=ids.image_token_id, boi_token_index=ids.boi_token_id, eoi_token_index=ids.eoi_token_id,
        tie_word_embeddings=False, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    return _seeing(lambda: Gemma3ForConditionalGeneration(config), seed)


def _gemma_processor() -> ProcessorMixin:
    images = _class("gemma3.image_processing_pil_gemma3", "Gemma3ImageProcessorPil")(
        size={"height": SIDE, "width": SIDE}
    )
    own = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    processor = _class("gemma3.processing_gemma3", "Gemma3Processor")(images, own, image_seq_length=4)
    return _with_template(processor, "<start_of_image>")


# -------------------------------------------------------------------------------------------- InternVL


def _internvl(seed: int) -> PreTrainedModel:
    from transformers import InternVLConfig, InternVLForConditionalGeneration, LlamaConfig
    from transformers.models.internvl.configuration_internvl import InternVLVisionConfig

    vision = InternVLVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=[SIDE, SIDE],
        patch_size=[8, 8],
    )  # fmt: skip
    config = InternVLConfig(
        vision_config=vision, text_config=LlamaConfig(**_TEXT), tie_word_embeddings=False,
        image_token_id=_internvl_processor().tokenizer.context_image_token_id, image_seq_length=4,
    )  # fmt: skip
    return _seeing(lambda: InternVLForConditionalGeneration(config), seed)


def _internvl_processor() -> ProcessorMixin:
    images = _class("got_ocr2.image_processing_pil_got_ocr2", "GotOcr2ImageProcessorPil")(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=False, min_patches=1, max_patches=1
    )
    own = tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    processor = image_only(_class("internvl.processing_internvl", "InternVLProcessor"))(images, own, image_seq_length=4)
    return _with_template(processor, "<IMG_CONTEXT>")


# --------------------------------------------------------------------------- Chameleon and Emu3


def _chameleon(seed: int) -> PreTrainedModel:
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration

    ids = _chameleon_processor().tokenizer
    named = {"<image>": ids.image_token_id, **{f"IMGIMG{'ABCDEFGHIJ'[i]}Z": 290 + i for i in range(10)}}
    vq = dict(
        embed_dim=8, num_embeddings=10, base_channels=32, channel_multiplier=[1, 1], num_res_blocks=1, resolution=8,
        latent_channels=8, in_channels=3, attn_resolutions=[4],
    )  # fmt: skip
    config = ChameleonConfig(**_TEXT, vq_config=vq, vocabulary_map=named, swin_norm=False)
    return _seeing(lambda: ChameleonForConditionalGeneration(config), seed)


def _chameleon_processor() -> ProcessorMixin:
    images = _class("chameleon.image_processing_pil_chameleon", "ChameleonImageProcessorPil")(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}
    )
    own = tokenizer(image_token="<image>", boi_token="<racm3:break>", eoi_token="<eoss>", sep_token="<sep>")
    processor = _class("chameleon.processing_chameleon", "ChameleonProcessor")(
        images, own, image_seq_length=16, image_token="<image>"
    )
    return _with_template(processor, "<image>")


_EMU3_CODES = 16


def _emu3(seed: int) -> PreTrainedModel:
    from transformers import Emu3Config, Emu3ForConditionalGeneration

    ids = _emu3_processor().tokenizer
    text = dict(_TEXT, bos_token_id=ids.bos_token_id)
    vq = dict(
        codebook_size=_EMU3_CODES, embed_dim=4, latent_channels=4, base_channels=32, channel_multiplier=[1, 1, 1, 1],
        num_res_blocks=1, attn_resolutions=[4], temporal_downsample_factor=1, hidden_size=32, double_latent=False,
        num_attention_heads=1,
    )  # fmt: skip
    config = Emu3Config(text_config=text, vq_config=vq, vocabulary_map=ids.get_vocab(), tie_word_embeddings=False)
    return _seeing(lambda: Emu3ForConditionalGeneration(config), seed)


def _emu3_processor() -> ProcessorMixin:
    from transformers import Emu3ImageProcessor, Emu3Processor

    own = tokenizer(
        image_token="<image>", boi_token="<|image start|>", eoi_token="<|image end|>", eof_token="<|extra_201|>",
        image_wrapper_token="<|image token|>", eol_token="<|extra_200|>", bos="<bos>",
    )  # fmt: skip
    own.bos_token = "<bos>"
    own.add_tokens([f"<|visual token {code:06d}|>" for code in range(_EMU3_CODES)])
    images = Emu3ImageProcessor(min_pixels=16 * 16, max_pixels=SIDE * SIDE, spatial_factor=8)
    return _with_template(Emu3Processor(images, own), "<image>")


FAMILIES = {
    family.name: family
    for family in (
        Family("llava", _llava, _llava_processor, "<image>"),
        Family("smolvlm", lambda seed: _idefics("smolvlm", seed), _smolvlm_processor, "<image>"),
        Family("idefics3", lambda seed: _idefics("idefics3", seed), _idefics_processor, "<image>"),
        Family("qwen2_vl", _qwen, _qwen_processor, "<|vision_start|><|image_pad|><|vision_end|>"),
        Family("gemma3", _gemma, _gemma_processor, "<start_of_image>"),
        Family("internvl", _internvl, _internvl_processor, "<IMG_CONTEXT>"),
        Family("chameleon", _chameleon, _chameleon_processor, "<image>"),
        Family("emu3", _emu3, _emu3_processor, "<image>"),
    )
}


def with_adapters(family: Family, names: tuple[str, ...], seed: int = 4, targets: Any = None) -> Any:
    """A PeftModel over one random base whose LoRA adapters change logits by about as much as a tuning.

    Args:
        targets: PEFT's target_modules; default: the decoder's projections alone.
    """
    from peft import LoraConfig, get_peft_model

    base = family.model(seed)
    decoder = next(name for name, module in base.named_modules() if module is base.get_decoder())
    targets = targets or rf"{decoder}\..*\.(q_proj|v_proj|down_proj)"
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(base, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, copy.deepcopy(config))
    torch.manual_seed(seed + 100)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model.eval()
