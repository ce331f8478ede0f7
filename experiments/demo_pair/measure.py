"""Held-out preference accuracy of the policy's implicit reward and of the reward model, next to answer length's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.demo_pair.labels import GROUPS
from experiments.demo_pair.pairs import Pair, longer_wins


def token_counter(base: Path) -> Callable[[str], int]:
    """Return a function that counts a text's tokens with the tokenizer in folder `base`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    return lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)


def accuracy_table(pairs: Sequence[Pair], chosen: Sequence[float], rejected: Sequence[float]) -> dict[str, dict]:
    """Return, for all pairs, per group (dialogue, …) where there are several, and per kind: their number, how often
    chosen > rejected, and length's accuracy.

    Length's accuracy is that of the best of four rules, chosen in hindsight per row: longer or shorter wins, in tokens
    or in characters.
    """
    by_kind: dict[str, list[int]] = defaultdict(list)
    groups = {GROUPS.get(pair.kind, "dialogue") for pair in pairs}
    for i, pair in enumerate(pairs):
        by_kind["all"].append(i)
        if len(groups) > 1:
            by_kind[GROUPS.get(pair.kind, "dialogue")].append(i)
        by_kind[pair.kind].append(i)
    table = {}
    for kind, rows in by_kind.items():
        mine = [pairs[i] for i in rows]
        longer = (longer_wins(mine), longer_wins(mine, characters=True))
        right = sum(chosen[i] > rejected[i] for i in rows) / len(rows)
        table[kind] = {
            "pairs": len(rows),
            "accuracy": round(right, 3),
            "length_accuracy": round(max(*longer, 1 - min(longer)), 3),
        }
    return table


def figures(pair: Any, reward_model: Any, pairs: dict[str, list[Pair]]) -> dict[str, dict]:
    """Measure both models on their held-out pairs, by kind; a minute on two cores.

    Args:
        pair: a loaded :class:`AlignedPair`; an answer's end token counts where the answer ended by itself.
        reward_model: a loaded :class:`RewardModel`; reads closed conversations.
        pairs: all pairs of ``policy`` and ``reward``.
    """
    from aad_plugin.pair.check import implicit_rewards

    policy, reward = ([p for p in pairs[split] if p.held_out] for split in ("policy", "reward"))
    end = pair.tokenizer.eos_token
    implicit = [
        implicit_rewards(
            pair,
            [{"role": "user", "content": p.prompt}],
            [p.chosen + end * p.chosen_ended, p.rejected + end * p.rejected_ended],
        )
        for p in policy
    ]
    scores = reward_model.score([(p.prompt, text) for p in reward for text in (p.chosen, p.rejected)])
    return {
        "policy": _figures(policy, [r[0] for r in implicit], [r[1] for r in implicit], pairs["policy"]),
        "reward": _figures(reward, scores[::2], scores[1::2], pairs["reward"]),
    }


def _figures(held_out: list[Pair], chosen: list[float], rejected: list[float], pairs: list[Pair]) -> dict[str, Any]:
    return {
        "training": {"pairs": len(pairs) - len(held_out)},
        "held_out": accuracy_table(held_out, chosen, rejected),
    }
