"""Every causal LM class of the installed transformers that builds from a tiny configuration, as a pair.

    python -m tests.causal_lm_sweep [CLASS …]      # resumes in runs/causal_lm_sweep-<version>.jsonl; prints the table

Classes that are named are examined anew; without names every class that the file lacks is. Delete the file after a change.

As two checkpoints, and as one base with LoRA on all linear layers, a padded batch must give the naive loop's tokens or the
pair must be refused in one line. Random weights, float32, 12 tokens of three prompts.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from aad_plugin.errors import AADError
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.one_base import OneBase
from tests.toys import EOS, PAD, VOCAB, left_pad, naive_aad, random_prompts

STEPS, CLOSE, SECONDS, MOST, MEMORY = 12, 1e-4, 120, 40e6, 8 << 30
# What makes a configuration tiny, by every name in use; a class gets those that it knows.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size",
                     "dim_ff", "ffn_hidden_size", "shared_intermediate_size", "attention_hidden_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "decoder_layers", "encoder_layers", "n_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "decoder_attention_heads", "n_heads",
                     "encoder_attention_heads", "attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_kv_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "qk_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_d_state", "state_size", "ssm_state_size"), 8),
    "mamba_d_ssm": 64, "first_k_dense_replace": 1, "chunk_size": 8, "mamba_chunk_size": 8, "sliding_window": 16,
    "vocab_size": VOCAB, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None, "is_decoder": True,
    "rotary_dim": 4, "vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
# What single classes want besides: layers of both kinds, or a size by a name of their own.
TEXT = {name: SIZES[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")}
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
OWN: dict[str, dict[str, Any]] = {
    "BambaForCausalLM": {"attn_layer_indices": [1]},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "GraniteMoeHybridForCausalLM": {"layer_types": ["mamba", "attention"]},
    "KimiLinearForCausalLM": HYBRID,
    "BailingHybridForCausalLM": HYBRID,
    "Qwen3_5ForCausalLM": HYBRID,
    "Qwen3_5MoeForCausalLM": HYBRID,
    "Qwen4ExpForCausalLM": HYBRID,
    "CohereCompassForCausalLM": {"layer_types": ["sliding_attention", "full_attention"]},
    "Dots3NoteForCausalLM": {"num_key_value_heads": 4},
    "Gemma4AssistantForCausalLM": {"text_config": {**TEXT, "hidden_size_per_layer_input": 0}},
    "ReformerModelWithLMHead": {"axial_pos_embds": False, "is_decoder": True, "attn_layers": ["local", "lsh"]},
    "LongcatFlashForCausalLM": {"qk_head_dim": 16, "head_dim": 8},
    "xLSTMForCausalLM": {"qk_dim_factor": 1.0, "v_dim_factor": 1.0},
    "Qwen3NextForCausalLM": HYBRID,
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"]},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]]},
    "Mamba2ForCausalLM": {"num_heads": 8},
    "RwkvForCausalLM": {"attention_hidden_size": 32},
    "XmodForCausalLM": {"default_language": "en_XX"},
    "ZambaForCausalLM": {"layers_block_type": ["mamba", "hybrid"]},
    "Zamba2ForCausalLM": {"layers_block_type": ["mamba", "hybrid"]},
    "ZayaForCausalLM": {"num_experts_per_tok": 1},
    "XLMWithLMHeadModel": {"emb_dim": 32, "n_words": VOCAB},
}
# Whose kernels read two kinds of layers past any adapter, so that PEFT refuses them.
NO_OUT_PROJ = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
# Sizes that some classes want to work out by themselves.
OPTIONAL = (
    "head_dim",
    "num_key_value_heads",
    "is_decoder",
    "sliding_window",
    "qk_head_dim",
    "bos_token_id",
    "chunk_size",
)


def configure(config_class: type, dropped: tuple[str, ...], own: dict[str, Any]) -> Any:
    """Return a tiny configuration; its parts (text, vision, audio …) are tiny, too."""
    known = set(inspect.signature(config_class.__init__).parameters)
    known |= {name for base in config_class.__mro__ for name in getattr(base, "__annotations__", {})}
    given = {name: value for name, value in SIZES.items() if name in known and name not in dropped}
    for name, part in (getattr(config_class, "sub_configs", None) or {}).items():
        if name not in own and hasattr(part, "model_type") and part.model_type:
            given[name] = configure(part, dropped, {})
    return config_class(**{**given, **own})


def build(model_class: type, config_class: type) -> PreTrainedModel:
    """Return a tiny random model whose rows of logits have a standard deviation of 3; raises what the first try raised."""
    own_class = getattr(model_class, "config_class", None) or config_class
    error: Exception | None = None
    for dropped in ((), *((name,) for name in OPTIONAL), OPTIONAL):
        try:
            config = configure(own_class, dropped, OWN.get(model_class.__name__, {}))
            with torch.device("meta"):  # a part whose size has a name of its own may be of gigabytes
                size = sum(weight.numel() for weight in model_class(config).parameters())
            if size > MOST:
                raise ValueError(f"not tiny: {size / 1e6:.0f}M weights")
            torch.manual_seed(4)
            model = model_class(config).eval()
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.ndim > 1 and float(weight.std()) < 0.1:
                        weight.normal_(std=0.15)
                _scale(model)
            reader(model)([1, 2, 3])
            return model
        except Exception as e:
            error = error or e
    raise error or ValueError("no configuration")


def _scale(model: PreTrainedModel) -> None:
    head = model.get_output_embeddings()
    if (
        isinstance(getattr(head, "weight", None), torch.Tensor)
        and head.weight is not model.get_input_embeddings().weight
    ):
        probe = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(0))
        for _ in range(3):
            head.weight.mul_(3 / model(input_ids=probe).logits.std(-1).mean().clamp(min=1e-6))


def reader(model: Any):
    """The last row of logits after reading a whole prefix without a cache, float64."""

    def read(prefix: list[int]):
        with torch.no_grad():
            return model(input_ids=torch.tensor([prefix]), use_cache=False).logits[0, -1, :VOCAB].double().numpy()

    return read


def outcome(make: Callable[[], AlignedPair], policy: Any, reference: Any) -> tuple[str, str]:
    """("equal" | "refused" | "wrong", path or reason) of a pair against the naive loop."""
    try:
        pair = make()
        path = pair.prove().path
        prompts = random_prompts([3, 11, 7])
        ids, mask = left_pad(prompts)
        options = dict(max_new_tokens=STEPS, pad_token_id=PAD, eos_token_id=EOS)
        rows = pair.generate(input_ids=ids, attention_mask=mask, **options)[:, ids.shape[1] :].tolist()
    except AADError as e:
        return "refused", str(e)[:200]
    for prompt, row in zip(prompts, rows, strict=True):
        run = naive_aad(policy, reference, prompt, STEPS, 0.1, EOS)
        for step, (token, wanted) in enumerate(zip(row, run.tokens, strict=False)):
            if token != wanted:
                if run.margins[step] >= CLOSE:
                    return "wrong", f"{path}: step {step} of a prompt of {len(prompt)}"
                break
    return "equal", path + "".join(f"; not {one[:150]}" for one in pair.proof.avoided[:1])


def two_checkpoints(model: PreTrainedModel) -> tuple[str, str]:
    """The reference is the policy with every matrix moved a little."""
    other = copy.deepcopy(model)
    torch.manual_seed(9)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.ndim > 1:
                weight.add_(torch.randn_like(weight) * weight.std() * 0.2)
    alone = copy.deepcopy(model), copy.deepcopy(other)
    return outcome(lambda: AlignedPair(Checkpoints(model, other), vocab_size=VOCAB), *map(reader, alone))


def lora(model: PreTrainedModel) -> tuple[str, str]:
    """LoRA on all linear layers of the model, which is the reference."""
    refused = ["out_proj", "conv1d"] if model.config.model_type in NO_OUT_PROJ else None
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", exclude_modules=refused, task_type="CAUSAL_LM")
    try:
        adapted = get_peft_model(copy.deepcopy(model), config, "policy").eval()
        torch.manual_seed(5)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.25)
        twin = copy.deepcopy(adapted)
        reader(twin)([1, 2, 3])
    except Exception as e:
        return "no LoRA", f"PEFT: {type(e).__name__}: {' '.join(str(e).split())[:120]}"
    return outcome(lambda: AlignedPair(OneBase(adapted, "policy"), vocab_size=VOCAB), reader(twin), reader(model))


OUTCOMES = ("equal", "refused", "wrong", "traceback", "no LoRA")
REFUSED = {"two checkpoints": 0.05, "LoRA": 0.15}  # the largest share of classes that may be refused
KINDS = {"two checkpoints": two_checkpoints, "LoRA": lora}


def classes() -> Iterator[tuple[type, type]]:
    """Configuration and model class of every causal LM, each model class once."""
    seen = set()
    for config_class, model_class in MODEL_FOR_CAUSAL_LM_MAPPING.items():
        for one in model_class if isinstance(model_class, tuple) else (model_class,):
            if one not in seen:
                seen.add(one)
                yield config_class, one


def examine(config_class: type, model_class: type) -> dict[str, Any]:
    """One line of the table."""
    row: dict[str, Any] = {"class": model_class.__name__}
    try:
        model = build(model_class, config_class)
        prompt = random_prompts([8])[0]
        apart = max(abs(reader(model)(prompt) - reader(model)(prompt)).max() for _ in range(2))
    except Exception as e:
        return {**row, "state": "not built", "why": f"{type(e).__name__}: {' '.join(str(e).split())[:120]}"}
    if apart > 1e-6:
        return {**row, "state": "unsteady", "why": f"two readings of one row differ by {apart:.2g}"}
    row["state"] = "built"
    for kind, run in KINDS.items():
        try:
            row[kind] = run(copy.deepcopy(model))
        except Exception as e:
            row[kind] = ("traceback", f"{type(e).__name__}: {' '.join(str(e).split())[:160]}")
    return row


class TooLong(BaseException):
    """Nothing that tries several ways may take it for the failure of one."""


def _too_long(*_: Any) -> None:
    raise TooLong(f"longer than {SECONDS} s")


def main(wanted: list[str]) -> int:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    logging.getLogger("aad_plugin").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    os.environ["AAD_CACHE_DIR"] = tempfile.mkdtemp()  # what earlier runs proved is proven anew
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    file = Path("runs") / f"causal_lm_sweep-{transformers.__version__}.jsonl"
    file.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
    rows = [row for row in rows if row["class"] not in wanted]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = {row["class"] for row in rows}
    signal.signal(signal.SIGALRM, _too_long)
    for config_class, model_class in classes():
        if model_class.__name__ in done or (wanted and model_class.__name__ not in wanted):
            continue
        signal.alarm(SECONDS)
        try:
            row = examine(config_class, model_class)
        except TooLong as e:
            row = {"class": model_class.__name__, "state": "not built", "why": str(e)}
        signal.alarm(0)
        rows.append(row)
        print(json.dumps(row), flush=True)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
    built = [row for row in rows if row["state"] == "built"]
    print(f"\ntransformers {transformers.__version__}: {len(rows)} classes, {len(built)} build\n")
    print(f"| as | {' | '.join(OUTCOMES)} |\n|{'---|' * (len(OUTCOMES) + 1)}")
    for kind in KINDS:
        found = Counter(row[kind][0] for row in built)
        print(f"| {kind} |", " | ".join(str(found[name]) for name in OUTCOMES), "|")
    too_many = [
        kind for kind, share in REFUSED.items() if sum(row[kind][0] == "refused" for row in built) > share * len(built)
    ]
    wrong = any(row[kind][0] in ("wrong", "traceback") for row in built for kind in KINDS)
    return 1 if wrong or too_many else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
