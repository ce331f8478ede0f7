"""How often bfloat16 changes AAD's choice, by the precision of the head.

Every step is asked along the answers that float32 gives, so that one flip does not count for all that follow. The head of
a bfloat16 model rounds a logit of 16 to 32 to a multiple of 1/8, and AAD ranks differences of two of them; a float32 head
on bfloat16 hidden states does not.

    python -m benchmarks.bf16_flips [prompts] [tokens]
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aad_plugin import AlignedPair
from aad_plugin.answers import encode_prompts
from aad_plugin.decoding import aad_scores, plausible_set
from aad_plugin.engine.checkpoints import full_checkpoints
from aad_plugin.load import load_pair
from aad_plugin.pair_source import resolve
from tests.test_demo_pair import PROMPTS

ALPHA = 0.1


def main(prompts: int = len(PROMPTS), tokens: int = 64) -> None:
    """Print flips per kind of head."""
    policy, reference = full_checkpoints(resolve("demo"), "float32")
    exact = load_pair(policy=policy, reference=reference, dtype="float32")
    ids, mask = encode_prompts(exact, PROMPTS[:prompts])
    answers = exact.generate(ids, attention_mask=mask, max_new_tokens=tokens, eos_token_id=None, pad_token_id=0)
    mask = torch.cat([mask, torch.ones(len(ids), tokens, dtype=mask.dtype)], dim=1)
    rounded = load_pair(policy=policy, reference=reference, dtype="bfloat16")
    want, sizes = choices(exact, answers, mask, tokens, exact_head=True)
    print(f"{want.numel()} steps, {float((sizes > 1).float().mean()):.2f} of them with more than one plausible token")
    for name, exact_head in (("bfloat16 heads", False), ("float32 heads", True)):
        found, _ = choices(rounded, answers, mask, tokens, exact_head=exact_head)
        print(f"bfloat16 models, {name}: {float((found != want).float().mean()):.4f} of the choices differ")


@torch.inference_mode()
def choices(pair: AlignedPair, answers: Tensor, mask: Tensor, tokens: int, exact_head: bool) -> tuple[Tensor, Tensor]:
    """Return AAD's choice and the number of plausible tokens at each step of given answers, both (B, tokens)."""
    sides: Any = pair.sides
    rows = [logits(model, answers, mask, tokens, exact_head) for model in (sides.policy_model, sides.reference_model)]
    return aad_scores(*rows, ALPHA).argmax(-1), plausible_set(rows[0], ALPHA).sum(-1)


def logits(model: PreTrainedModel, answers: Tensor, mask: Tensor, tokens: int, exact_head: bool) -> Tensor:
    """Return (B, tokens, V) float32 logits of the positions before each answer token."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    hidden = decoder(input_ids=answers, attention_mask=mask, position_ids=positions, use_cache=False)[0]
    hidden = hidden[:, -tokens - 1 : -1]
    if exact_head:
        return hidden.float() @ head.weight.float().t()
    return head(hidden).float()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
