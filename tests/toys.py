"""Tiny models, a byte tokenizer and the naive loop every decoder is held against; all of it runs in milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB = 258
EOS, PAD = 256, 257
SPREAD = 3.0  # standard deviation of a row of logits; default initialisation gives 0.05, where any alpha keeps all
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, then <eos> and <pad>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )
    fast.chat_template = CHAT
    return fast


_SHAPE: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
)
_SHAPE |= dict(
    num_key_value_heads=2, max_position_embeddings=512, eos_token_id=EOS, pad_token_id=PAD, bos_token_id=None
)
BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SHAPE, head_dim=8)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=512, eos_token_id=EOS, bos_token_id=None
        )
    ),
}


def toy_model(arch: str, seed: int) -> PreTrainedModel:
    """A random model whose rows of logits have standard deviation SPREAD."""
    torch.manual_seed(seed)
    model = BUILDERS[arch]().eval()
    spread(model)
    return model


def spread(model: PreTrainedModel) -> None:
    """Give the model a head of its own, rows of uneven length, scaled until logits have standard deviation SPREAD.

    A head tied to the embeddings would mostly repeat the last token; even rows would hardly ever leave one candidate.
    """
    head = model.get_output_embeddings()
    rows = torch.randn(head.weight.shape) * torch.randn(len(head.weight), 1).mul(0.5).exp()
    head.weight = torch.nn.Parameter(rows)
    model.config.tie_word_embeddings = False
    probe = torch.randint(0, 256, (4, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(3):
            head.weight.mul_(SPREAD / model(probe).logits.std(-1).mean())


def with_adapters(arch: str, names: tuple[str, ...], seed: int = 4):
    """A PeftModel over one random base whose named LoRA adapters change the logits by about as much as a tuning."""
    base = toy_model(arch, seed)
    targets = ["c_attn", "c_fc"] if arch == "gpt2" else ["q_proj", "v_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=arch == "gpt2")
    model = get_peft_model(base, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, copy.deepcopy(config))
    torch.manual_seed(seed + 100)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model.eval()


def random_prompts(lengths: list[int], seed: int = 7) -> list[list[int]]:
    """Random byte ids of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]


def left_pad(prompts: list[list[int]], pad: int = PAD) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) ids and mask."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


# ------------------------------------------------------------------ the oracle

Logits = Callable[[list[int]], np.ndarray]


@dataclass
class NaiveRun:
    """What the naive loop chose, how close each choice was, and how many tokens were plausible."""

    tokens: list[int] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    departures: int = 0


def model_logits(model: PreTrainedModel) -> Logits:
    """The last row of logits after re-reading a whole prefix, float64."""

    def read(prefix: list[int]) -> np.ndarray:
        with torch.no_grad():
            return model(input_ids=torch.tensor([prefix])).logits[0, -1].double().numpy()

    return read


def naive_aad(
    policy: Logits, reference: Logits, prefix: list[int], steps: int, alpha: float, eos: int | None
) -> NaiveRun:
    """The paper's loop, written down as it stands: no cache, no batch, float64 scores.

    The margin of a step is the smaller of two distances, both in nats: between the two best advantages, and between
    any token and the plausibility threshold.
    """
    run, prefix = NaiveRun(), list(prefix)
    for _ in range(steps):
        log_policy, log_reference = log_softmax(policy(prefix)), log_softmax(reference(prefix))
        threshold = np.log(alpha) + log_policy.max()
        plausible = log_policy >= threshold
        advantage = np.where(plausible, log_policy - log_reference, -np.inf)
        best = np.sort(advantage)[::-1][:2]
        distance = np.abs(log_policy - threshold)
        if alpha == 1.0:
            distance = np.abs(np.delete(log_policy, log_policy.argmax()) - threshold)
        token = int(advantage.argmax())
        run.tokens.append(token)
        run.margins.append(float(min(best[0] - best[1], distance.min())))
        run.candidates.append(int(plausible.sum()))
        run.departures += token != int(log_policy.argmax())
        prefix.append(token)
        if token == eos:
            break
    return run


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(V) float64 log-probabilities."""
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@dataclass
class Comparison:
    """Steps compared, and those excused because the naive loop's own margin was below the tolerance."""

    steps: int = 0
    excused: int = 0


def compare(
    run: NaiveRun, prompt: list[int], decode: Callable[[list[int], int], list[int]], tolerance=1e-4
) -> Comparison:
    """Hold a decoder against the naive run; ``decode(prefix, n)`` returns up to n tokens.

    A difference is excused only where the naive margin is under the tolerance; the decoder then continues from the
    naive prefix.
    """
    result, done = Comparison(steps=len(run.tokens)), 0
    while done < len(run.tokens):
        got = decode(prompt + run.tokens[:done], len(run.tokens) - done)
        wanted = run.tokens[done:]
        agree = next(
            (i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted))
        )
        if agree == len(wanted):
            break
        step = done + agree
        assert run.margins[step] < tolerance, (
            f"step {step}: decoded {got[agree : agree + 3]}, naive {wanted[agree : agree + 3]}, "
            f"margin {run.margins[step]:.2e}"
        )
        result.excused += 1
        done = step + 1
    return result
