"""Tiny pairs on disk for vLLM, with the naive readers of their two sides."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.toys import EOS, PAD, VOCAB, Logits, byte_tokenizer, model_logits, spread

# vLLM's CPU attention wants heads of 32 or more.
_SHAPE = dict(
    vocab_size=VOCAB, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, max_position_embeddings=1024, eos_token_id=EOS, pad_token_id=PAD,
    bos_token_id=None,
)  # fmt: skip
_SMALL = {**_SHAPE, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
_BUILDERS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SHAPE)),
    # Fewer layers and heads, which are as wide as a policy's: what a small guide is.
    "small llama": lambda: LlamaForCausalLM(LlamaConfig(**_SMALL)),
    "small qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SMALL)),
}


@dataclass
class DiskPair:
    """What vLLM loads first, how ``hf_overrides["aad"]`` names the rest, and what the naive loop reads of either side."""

    model: Path
    rest: dict[str, str]
    policy_logits: Logits
    reference_logits: Logits
    logits: dict[str, Logits] = field(default_factory=dict)  # of further adapters

    def engine_arguments(self, **own: Any) -> dict[str, Any]:
        """Arguments of vLLM's LLM for this pair in float32; on a GPU a cache of 1 GiB, not most of the device."""
        small = {"kv_cache_memory_bytes": 2**30, "gpu_memory_utilization": 0.2} if torch.cuda.is_available() else {}
        return dict(
            model=str(self.model), dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=32, seed=0,
            hf_overrides={"architectures": ["AADForCausalLM"], "aad": {**self.rest, **own}}, **small,
        )  # fmt: skip


def disk_pair(folder: Path, arch: str) -> DiskPair:
    """Two random models, the reference half way between its policy and another one."""
    torch.manual_seed(4)
    policy = _BUILDERS[arch]().eval()
    spread(policy)
    torch.manual_seed(5)
    reference = _BUILDERS[arch]().eval()
    spread(reference)
    with torch.no_grad():
        for own, other in zip(reference.parameters(), policy.parameters(), strict=True):
            own.lerp_(other, 0.7)
    for name, model in (("policy", policy), ("reference", reference)):
        model.generation_config = copy.deepcopy(model.generation_config)
        model.save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    rest = {"reference": str(folder / "reference")}
    return DiskPair(folder / "policy", rest, model_logits(policy), model_logits(reference))


def disk_model(folder: Path, arch: str, seed: int) -> Logits:
    """A random model with the toy tokenizer; how the naive loop reads it."""
    torch.manual_seed(seed)
    model = _BUILDERS[arch]().eval()
    spread(model)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model_logits(model)


def lora_pair(folder: Path, arch: str, names: Sequence[str] = ("adapter",)) -> DiskPair:
    """A random base and LoRAs on every linear layer, their ranks filled up by no tile; "adapter" is the policy's,
    "reference_adapter" the reference's."""
    torch.manual_seed(4)
    base = _BUILDERS[arch]().eval()
    spread(base)
    base.save_pretrained(folder / "base")
    byte_tokenizer().save_pretrained(folder / "base")
    logits, rest = {}, {}
    for number, name in enumerate(names):
        config = LoraConfig(
            r=4 + number, lora_alpha=8, task_type="CAUSAL_LM", target_modules="all-linear", rank_pattern={"k_proj": 3}
        )
        model = get_peft_model(copy.deepcopy(base), config)
        model.peft_config["default"].base_model_name_or_path = str(folder / "base")
        torch.manual_seed(100 + number)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.normal_(std=0.2)
        model.save_pretrained(folder / name)
        logits[name], rest[name] = model_logits(model.eval()), str(folder / name)
    reference = logits.get("reference_adapter", model_logits(base))
    return DiskPair(folder / "base", rest, logits["adapter"], reference, logits)
