"""Tiny pairs on disk for vLLM, with the naive readers of their two sides."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.toys import EOS, PAD, VOCAB, Logits, byte_tokenizer, model_logits, spread

# vLLM's CPU attention wants heads of 32 or more.
_SHAPE = dict(
    vocab_size=VOCAB, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, max_position_embeddings=1024, eos_token_id=EOS, pad_token_id=PAD,
    bos_token_id=None,
)  # fmt: skip
_BUILDERS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SHAPE)),
}


@dataclass
class DiskPair:
    """Folders of a policy and its reference, and what the naive loop reads for either."""

    policy: Path
    reference: Path
    policy_logits: Logits
    reference_logits: Logits

    def engine_arguments(self, **own: Any) -> dict[str, Any]:
        """Arguments of vLLM's LLM for this pair in float32; on a GPU a cache of 1 GiB, not most of the device."""
        small = {"kv_cache_memory_bytes": 2**30, "gpu_memory_utilization": 0.2} if torch.cuda.is_available() else {}
        return dict(
            model=str(self.policy), dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=32, seed=0,
            hf_overrides={"architectures": ["AADForCausalLM"], "aad": {"reference": str(self.reference), **own}}, **small,
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
    return DiskPair(folder / "policy", folder / "reference", model_logits(policy), model_logits(reference))
