"""Hold answers of another device against float32 on CPU, choice by choice.

Both models of the demo pair read a prompt with its whole answer in one pass; at every step AAD's choice after the tokens
so far is compared with the token that stands there. One difference does not count for all that follow, and comes with how
close it was: the gap of the two scores, or the distance of either token to the edge of the plausible set, in nats.

    python -m experiments.forced_choices runs/vllm_gpu.json [variant ...]
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aad_plugin.cli.bench import read_prompts
from aad_plugin.decoding import aad_scores
from aad_plugin.pair.model import load_pair
from aad_plugin.sources.merging import full_checkpoints
from aad_plugin.sources.parts import resolve

ALPHA = 0.1


def main(file: str, *names: str) -> None:
    """Print a line per variant of a file that `experiments.vllm_gpu` wrote."""
    answers = json.loads(Path(file).read_text(encoding="utf-8"))
    policy, reference = full_checkpoints(resolve("demo"), "float32")
    pair = load_pair(policy=policy, reference=reference, dtype="float32")
    sides: Any = pair.sides
    for name in names or answers:
        prompts = read_prompts(None, len(answers[name]))
        closeness: list[float] = []
        steps = 0
        for prompt, tokens in zip(prompts, answers[name], strict=False):
            text = pair.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
            )["input_ids"]
            ids = torch.tensor([[*text, *tokens]])
            rows = [_logits(model, ids, len(tokens)) for model in (sides.policy_model, sides.reference_model)]
            closeness += _differences(rows[0], rows[1], torch.tensor(tokens))
            steps += len(tokens)
        listed = ", ".join(f"{gap:.4f}" for gap in sorted(closeness, reverse=True)[:3])
        print(f"{name}: {steps - len(closeness)} of {steps} choices equal; the widest differences: {listed or 'none'}")


@torch.no_grad()
def _logits(model: Any, ids: Tensor, steps: int) -> Tensor:
    return model(ids).logits[0, -steps - 1 : -1]


def _differences(policy: Tensor, reference: Tensor, tokens: Tensor) -> list[float]:
    """How close each differing choice was, nats."""
    scores = aad_scores(policy, reference, ALPHA)
    best = scores.argmax(-1)
    edge = policy.amax(-1) + math.log(ALPHA)
    found = []
    for step in (best != tokens).nonzero()[:, 0].tolist():
        own, other = best[step], tokens[step]
        gap = scores[step, own] - scores[step, other]
        edges = [(policy[step, token] - edge[step]).abs() for token in (own, other)]
        found.append(float(min(gap, *edges)))
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
