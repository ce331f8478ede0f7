"""What a dtype changes in AAD: choices, rewards, win rate against float32, speed.

Choices are asked along the answers that float32 gives, so that one flip does not count for all that follow; rewards are
those of each dtype's own answers. Rows: float32; bfloat16 as the heads round; bfloat16 whose plausible tokens are summed
in float32, which is how a pair decodes.

    python -m experiments.dtypes [prompts] [tokens] [batch]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from aad_plugin import AlignedPair, answer
from aad_plugin.judges.kinds.reward import RewardModel
from aad_plugin.judges.statistics.intervals import mean_with_interval, shown
from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.model import load_pair

ROWS = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16", "shortcuts": "none"},
    "bfloat16, sums in float32": {"dtype": "bfloat16"},
}


def main(num: int = 160, tokens: int = 64, batch: int = 16) -> None:
    """Print one row per dtype."""
    file = Path(__file__).parents[1] / "tasks" / "demo" / "dialogue" / "prompts.jsonl"
    prompts = [json.loads(line)["prompt"] for line in file.read_text("utf-8").splitlines()][:num]
    pairs = {name: load_pair("demo", **options) for name, options in ROWS.items()}
    changed = choices_changed(pairs, prompts, tokens, batch)
    answers, seconds = {}, {}
    for name, one in pairs.items():
        start = time.perf_counter()
        answers[name] = answer(one, prompts, strategy="aad", max_new_tokens=tokens, batch_size=batch, progress=True)
        seconds[name] = time.perf_counter() - start
    model = RewardModel.load("demo")
    rewards = {name: np.array(model.score(list(zip(prompts, own, strict=True)))) for name, own in answers.items()}
    for name in ROWS:
        wins = 1 / (1 + np.exp(rewards["float32"] - rewards[name]))
        found = mean_with_interval(wins)
        equal = sum(a == b for a, b in zip(answers[name], answers["float32"], strict=True))
        won = "" if name == "float32" else f"win rate against float32 {shown(found.value, found.low, found.high)}, "
        print(
            f"{name}: {changed[name]:.4f} of the choices changed, {equal} of {len(prompts)} answers equal, mean reward "
            f"{rewards[name].mean():.3f}, {won}{seconds[name]:.0f} s",
            flush=True,
        )


def choices_changed(pairs: dict[str, AlignedPair], prompts: list[str], tokens: int, batch: int) -> dict[str, float]:
    """Share of steps along float32's AAD answers at which each pair chooses otherwise than float32."""
    exact = pairs["float32"]
    settings = exact.settings.override(strategy="aad")
    differ, steps = dict.fromkeys(pairs, 0), 0
    for start in tqdm(range(0, len(prompts), batch), desc="choices along float32's answers"):
        ids, mask = encode_prompts(exact, prompts[start : start + batch])
        options = {"attention_mask": mask, "max_new_tokens": tokens, "eos_token_id": None, "pad_token_id": 0}
        text = exact.generate(ids, **options)
        whole = torch.cat([mask, torch.ones_like(text[:, ids.shape[1] :])], dim=1)
        chosen = {name: one.choices(text, whole, ids.shape[1], settings) for name, one in pairs.items()}
        steps += chosen["float32"].numel()
        for name in pairs:
            differ[name] += int((chosen[name] != chosen["float32"]).sum())
    return {name: number / steps for name, number in differ.items()}


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:4]))
