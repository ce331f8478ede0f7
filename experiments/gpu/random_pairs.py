"""Random pairs of real shapes, made where they are to run: a base, rank-16 LoRA on its linear layers, the merged policy.

Logits have a spread at which a few tokens are plausible, and the adapter changes them by about as much as a tuning does.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.one_base import OneBase


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder: hidden, intermediate, layers, heads, key-value heads, vocabulary."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int


SHAPES = {
    "8b": Shape(4096, 14336, 32, 32, 8, 128256),
    "3b": Shape(3072, 8192, 28, 24, 8, 128256),
    "1b": Shape(2048, 8192, 16, 32, 8, 128256),
    "mid": Shape(1024, 2816, 8, 16, 8, 32000),
    "tiny": Shape(64, 128, 2, 4, 2, 512),
}
RANK = 16
ENDS: dict[str, Any] = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}


def _common(s: Shape) -> dict[str, Any]:
    return dict(
        vocab_size=s.vocab, hidden_size=s.hidden, intermediate_size=s.inner, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, max_position_embeddings=8192,
        tie_word_embeddings=False, **ENDS,
    )  # fmt: skip


def _llama(s: Shape) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_common(s)))


def _qwen3(s: Shape) -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**_common(s), head_dim=s.hidden // s.heads))


def _gpt2(s: Shape) -> PreTrainedModel:
    sizes = dict(vocab_size=s.vocab, n_embd=s.hidden, n_layer=s.layers, n_head=s.heads, n_inner=s.inner)
    return GPT2LMHeadModel(GPT2Config(**sizes, n_positions=1024, tie_word_embeddings=False, **ENDS))


def _gemma3(s: Shape) -> PreTrainedModel:
    return Gemma3ForCausalLM(Gemma3TextConfig(**_common(s), head_dim=s.hidden // s.heads, sliding_window=16))


ARCHITECTURES = {"llama": _llama, "qwen3": _qwen3, "gpt2": _gpt2, "gemma3": _gemma3}


@dataclass
class Built:
    """One pair in both forms over the same weights, and the two models as anyone would load them."""

    lora: AlignedPair
    full: AlignedPair
    policy: PreTrainedModel
    reference: PreTrainedModel


@torch.no_grad()
def build(architecture: str, shape: Shape, dtype: torch.dtype, device: str, spread: float, effect: float) -> Built:
    """Return a random pair.

    Args:
        spread: standard deviation of a row of logits. effect: norm of an adapter's change of a weight over the weight's.
    """
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            reference = ARCHITECTURES[architecture](shape).eval()
    finally:
        torch.set_default_dtype(before)
    probe = torch.randint(3, shape.vocab, (1, 16), generator=torch.Generator().manual_seed(0)).to(device)
    head = reference.get_output_embeddings()
    for _ in range(2):
        found = float(reference(probe).logits.float().std(-1).mean())
        head.weight.mul_(spread / max(found, 1e-6))
    names = _linear_layers(reference)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=names, task_type="CAUSAL_LM", fan_in_fan_out=architecture == "gpt2"
    )
    model: Any = get_peft_model(copy.deepcopy(reference), config, adapter_name="policy").eval()
    for layer in model.modules():
        if hasattr(layer, "lora_A") and "policy" in layer.lora_A:
            down, up = layer.lora_A["policy"].weight, layer.lora_B["policy"].weight
            down.normal_(std=down.shape[1] ** -0.5)
            weight = layer.get_base_layer().weight
            up.normal_(std=effect * float(weight.float().std()) / (2 * (RANK / down.shape[1]) ** 0.5))
            up.copy_(up.to(dtype))
            down.copy_(down.to(dtype))
    policy = copy.deepcopy(model).merge_and_unload().eval()
    lora = AlignedPair(OneBase(model, "policy"), vocab_size=shape.vocab)
    return Built(lora, AlignedPair(Checkpoints(policy, reference), vocab_size=shape.vocab), policy, reference)


def _linear_layers(model: PreTrainedModel) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, Conv1D)
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, kinds)}
    return sorted(names - {"lm_head"})
