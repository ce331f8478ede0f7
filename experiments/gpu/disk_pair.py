"""A random pair of a real shape on disk for vLLM, and what float32 chooses along one text.

python -m experiments.gpu.disk_pair FOLDER SHAPE [DTYPE]

writes FOLDER/reference, FOLDER/adapter (rank 16, every linear layer of the blocks), FOLDER/policy (merged in DTYPE) and
FOLDER/truth.json. The text is the float32 pair's own AAD answer; beside it stand, for each strategy, the choice at every
step and its margin: the smaller of the gap to the second best and the distance of a token from the plausible set's edge.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

RANK, SCALE = 16, 2.0
ROWS, PROMPT, STEPS, ALPHA = 8, 128, 48, 0.1
# Hidden, intermediate, layers, heads, key-value heads, vocabulary; vLLM on CPU wants heads of 32 or more.
SHAPES = {
    "8b": (4096, 14336, 32, 32, 8, 128256),
    "3b": (3072, 8192, 28, 24, 8, 128256),
    "1b": (2048, 8192, 16, 32, 8, 128256),
    "tiny": (256, 256, 2, 4, 2, 512),
}


@torch.no_grad()
def make(folder: Path, shape: str, dtype: torch.dtype) -> None:
    """Write the pair and the truth."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    started = time.monotonic()
    torch.manual_seed(0)
    hidden, inner, layers, heads, kv_heads, vocab = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocab, max_position_embeddings=8192, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, dtype=dtype,
    )  # fmt: skip
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    model.lm_head.weight.normal_(0, 8.0 / hidden**0.5)  # logits of std 8: a few plausible tokens
    _save(model, folder / "reference", vocab)
    _say("reference", started)
    adapter = _adapter(model, dtype)
    names = {
        f"base_model.model.{n}.lora_{k}.weight": m for n, ab in adapter.items() for k, m in zip("AB", ab, strict=True)
    }
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    save_file(
        {n: m.cpu().contiguous() for n, m in names.items()},
        folder / "adapter/adapter_model.safetensors",
        {"format": "pt"},
    )
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    written = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(folder / "reference"), "r": RANK,
        "lora_alpha": int(SCALE * RANK), "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "modules_to_save": None, "target_modules": targets,
    }  # fmt: skip
    (folder / "adapter/adapter_config.json").write_text(json.dumps(written))
    exact = LlamaForCausalLM(config).to(device).float() if device == "cpu" else _empty_like(config, device)
    exact.load_state_dict(model.state_dict())
    (folder / "truth.json").write_text(json.dumps(_truth(exact.eval(), adapter, device, vocab)))
    _say("truth", started)
    del exact
    for name, layer in model.named_modules():
        if name in adapter:
            a, b = adapter[name]
            layer.weight += (b @ a) * SCALE
    _save(model, folder / "policy", vocab)
    _say("policy", started)


def _empty_like(config: Any, device: str) -> Any:
    with torch.device(device):
        return LlamaForCausalLM(config).float()


def _adapter(model: nn.Module, dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and "lm_head" not in name:
            outer, inner = layer.weight.shape
            a = torch.randn(RANK, inner, device=layer.weight.device) / inner**0.5
            b = torch.randn(outer, RANK, device=layer.weight.device) * 0.005
            found[name] = (a.to(dtype), b.to(dtype))
    return found


def _truth(exact: Any, adapter: dict[str, tuple[Tensor, Tensor]], device: str, vocab: int) -> dict[str, Any]:
    adapted = False

    def hook(name: str) -> Any:
        a, b = (m.float() for m in adapter[name])
        return lambda layer, inputs, out: out + (inputs[0] @ a.t()) @ b.t() * SCALE if adapted else out

    for name, layer in exact.named_modules():
        if name in adapter:
            layer.register_forward_hook(hook(name))
    ids = torch.randint(4, vocab, (ROWS, PROMPT), generator=torch.Generator().manual_seed(3)).to(device)
    caches, new = {True: DynamicCache(config=exact.config), False: DynamicCache(config=exact.config)}, ids
    text: list[Tensor] = []
    choices: dict[str, list[Tensor]] = {"aad": [], "greedy": [], "reference": []}
    margins: dict[str, list[Tensor]] = {"aad": [], "greedy": [], "reference": []}
    for _ in range(STEPS):
        rows = {}
        for adapted in (True, False):
            out = exact(input_ids=new, past_key_values=caches[adapted], use_cache=True, logits_to_keep=1)
            rows[adapted] = out.logits[:, -1].double().log_softmax(-1)
        policy, reference = rows[True], rows[False]
        edge = policy.amax(-1, keepdim=True) + math.log(ALPHA)
        scores = torch.where(policy >= edge, policy - reference, -torch.inf)
        for name, one in (("aad", scores), ("greedy", policy), ("reference", reference)):
            best = one.topk(2).values
            gap = best[:, 0] - best[:, 1]
            choices[name].append(one.argmax(-1))
            margins[name].append(torch.minimum(gap, (policy - edge).abs().amin(-1)) if name == "aad" else gap)
        text.append(scores.argmax(-1))
        new = text[-1][:, None]

    def lists(found: list[Tensor]) -> Any:
        return torch.stack(found, dim=1).tolist()

    return {
        "prompts": ids.tolist(), "text": lists(text), "choices": {k: lists(v) for k, v in choices.items()},
        "margins": {k: lists(v) for k, v in margins.items()},
    }  # fmt: skip


def _save(model: Any, folder: Path, vocab: int) -> None:
    words = {("<pad>", "<s>", "</s>", "<unk>")[k] if k < 4 else f"w{k}": k for k in range(vocab)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
    )  # fmt: skip
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    model.save_pretrained(folder, max_shard_size="4GB")
    tokenizer.save_pretrained(folder)


def _say(what: str, started: float) -> None:
    """Print a line with the seconds since the start."""
    print(json.dumps({"part": "disk_pair", "what": what, "at_s": round(time.monotonic() - started, 1)}), flush=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2], getattr(torch, sys.argv[3] if len(sys.argv) > 3 else "bfloat16"))
