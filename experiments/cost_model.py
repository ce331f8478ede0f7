"""What AAD costs against greedy decoding, by the share of ambiguous steps: a model of it, and measured points.

A step of batch 1 reads every weight once, so bytes per token are its cost as long as memory is the limit:

    greedy, merged      W                       W: the policy's weights, body and head
    naive loop          2 W
    LoRA pair           W + adapters            both sides' rows in one pass; the reference's head at plausible tokens only
    two checkpoints     W + p · body            p: share of steps with more than one plausible token; at the others the
                                                reference waits, and reads what it missed in one pass

Arithmetic per token is 2 FLOPs per weight and row: 2 W, 4 W, and 2 W + 2 body for both kinds of pair, whatever p is.
p is varied by alpha. Every point is the ratio of tokens per second to greedy decoding of the merged policy in the same run.

    python -m experiments.cost_model runs/cost_model.json experiments/cost_model.svg [rounds] [tokens]
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from aad_plugin import AlignedPair
from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.model import load_pair
from aad_plugin.sources.merging import full_checkpoints
from aad_plugin.sources.parts import resolve
from aad_plugin.speed.loops import greedy_loop, naive_loop
from aad_plugin.speed.measure import Contestant, interleave
from tests.demo.test_pair import PROMPTS

ALPHAS = (0.01, 0.1, 0.3, 0.6, 1.0)
GREEDY, NAIVE, LORA, FULL = "greedy, merged", "naive loop", "LoRA pair", "two checkpoints"


def main(record: str, plot: str, rounds: int = 4, tokens: int = 64) -> None:
    """Measure, write the figures as JSON and the picture as SVG."""
    lora = load_pair("demo", dtype="bfloat16")
    policy, reference = full_checkpoints(resolve("demo"), "bfloat16")
    full = load_pair(policy=policy, reference=reference, dtype="bfloat16")
    sides: Any = full.sides
    ids, mask = encode_prompts(full, PROMPTS[:1])
    asked: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": tokens, "eos_token_id": None, "pad_token_id": 0}
    calls = {
        GREEDY: partial(greedy_loop, sides.policy_model, ids, mask, tokens),
        NAIVE: partial(naive_loop, sides.policy_model, sides.reference_model, ids, mask, tokens, 0.1),
    }
    for alpha in ALPHAS:
        for name, pair in ((LORA, lora), (FULL, full)):
            calls[f"{name}, alpha {alpha}"] = partial(pair.generate, ids, alpha=alpha, **asked)
    shares = {alpha: _share(full, calls[f"{FULL}, alpha {alpha}"], tokens) for alpha in ALPHAS}
    timings = interleave([Contestant(name, 1, tokens, call) for name, call in calls.items()], rounds)
    speeds = {timing.contestant.name: timing.speed for timing in timings}
    body, head = _weights(sides.reference_model)
    adapters = sum(p.numel() for name, p in lora.named_parameters() if "lora_" in name)
    found = {
        "threads": torch.get_num_threads(), "tokens": tokens, "rounds": rounds,
        "weights": {"body": body, "head": head, "adapters": adapters},
        "naive": speeds[NAIVE] / speeds[GREEDY],
        "points": [
            {"alpha": alpha, "ambiguous": shares[alpha],
             **{name: speeds[f"{name}, alpha {alpha}"] / speeds[GREEDY] for name in (LORA, FULL)},
             f"{LORA}, by bytes": (body + head) / (body + head + adapters),
             f"{FULL}, by bytes": (body + head) / (body + head + shares[alpha] * body)}
            for alpha in ALPHAS
        ],
    }  # fmt: skip
    Path(record).parent.mkdir(parents=True, exist_ok=True)
    Path(record).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    draw(found, Path(plot))


def _share(pair: AlignedPair, call: Any, tokens: int) -> float:
    """The share of steps at which the reference was read."""
    sides: Any = pair.sides
    passes: list[None] = []
    hook = sides.reference_model.get_decoder().register_forward_pre_hook(lambda *_: passes.append(None))
    call()
    hook.remove()
    return len(passes) / tokens


def _weights(model: Any) -> tuple[int, int]:
    head = model.get_output_embeddings().weight.numel()
    embedding = model.get_input_embeddings().weight.numel()
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    total = sum(p.numel() for p in model.parameters())
    return total - embedding - (0 if tied else head), head


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw measured ratios over the curves of the bytes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    weights = found["weights"]
    whole = weights["body"] + weights["head"]
    grid = [i / 50 for i in range(51)]
    shares = [point["ambiguous"] for point in found["points"]]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "aad", "font.size": 9}):
        figure = Figure(figsize=(5.5, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        curves = {LORA: [whole / (whole + weights["adapters"])] * len(grid),
                  FULL: [whole / (whole + p * weights["body"]) for p in grid]}  # fmt: skip
        for (name, curve), colour, marker in zip(curves.items(), ("C0", "C1"), ("o", "s"), strict=True):
            axes.plot(grid, curve, color=colour, linewidth=1, label=f"{name}, by bytes")
            axes.plot(shares, [p[name] for p in found["points"]], marker, color=colour, label=f"{name}, measured")
        axes.axhline(found["naive"], color="0.5", linestyle="--", linewidth=1, label="naive loop, measured")
        axes.set(xlabel="share of steps with more than one plausible token", ylabel="tokens/s ÷ greedy, merged",
                 xlim=(0, 1), ylim=(0, 1.1))  # fmt: skip
        axes.legend(frameon=False, fontsize=8)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5]))
