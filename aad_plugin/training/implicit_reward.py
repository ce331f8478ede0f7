"""A pair's implicit reward, Σ log π_policy − log π_reference over an answer, as a reward function of TRL's GRPO and RLOO.

    export AAD_REWARD_PAIR='{"pair": "demo"}'            # model_args of the pair, as JSON
    trl grpo … --reward_funcs aad_plugin.training.implicit_reward.implicit_reward
    trl rloo … --reward_funcs aad_plugin.training.implicit_reward.implicit_reward_per_token

The pair is frozen: the policy that is trained is another model.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aad_plugin.errors import ConfigError
from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.model import AlignedPair, load_pair

VARIABLE = "AAD_REWARD_PAIR"
_ROWS = 8  # of one forward


def implicit_reward(prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Return one sum in nats per answer, its end token included where it was drawn.

    Args:
        prompts: strings or chat messages, as TRL hands them out. completion_ids: token ids of the answers.
    Raises:
        ConfigError: no pair named in ``AAD_REWARD_PAIR``.
    """
    return [total for total, _ in answer_rewards(_pair(), prompts, completion_ids)]


def implicit_reward_per_token(prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """As :func:`implicit_reward`, divided by the number of tokens: a longer answer is not better for its length."""
    return [total / max(1, length) for total, length in answer_rewards(_pair(), prompts, completion_ids)]


def answer_rewards(
    pair: AlignedPair, prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]]
) -> list[tuple[float, int]]:
    """Return (Σ log π_policy − log π_reference, number of tokens) of each answer.

    Args:
        prompts: one per answer. completion_ids: ids of the pair's vocabulary.
    """
    found = []
    for first in range(0, len(prompts), _ROWS):
        asked, given = list(prompts[first : first + _ROWS]), completion_ids[first : first + _ROWS]
        ids, mask = encode_prompts(pair, asked, chat=False if isinstance(asked[0], str) else None)
        answers, kept = right_pad(given, pair.device)
        both = torch.cat([ids, answers], dim=1), torch.cat([mask, kept], dim=1)
        policy, reference = pair.answer_logprobs(*both, ids.shape[1])
        sums = ((policy - reference).double() * kept).sum(-1)
        found += list(zip(sums.tolist(), kept.sum(-1).tolist(), strict=True))
    return found


def right_pad(rows: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Return (B, T) int64 ids and mask, padded by zeros on the right; T is at least 1."""
    width = max(1, *map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


@functools.cache
def _pair() -> AlignedPair:
    text = os.environ.get(VARIABLE, "")
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise ConfigError(
            f"the implicit reward needs its pair: set {VARIABLE} to model_args as a JSON object, such as "
            f'{{"pair": "demo"}}; got {text!r}'
        )
    # Beside the policy, which TRL puts on this process's device.
    device = {"device": f"cuda:{torch.cuda.current_device()}"} if torch.cuda.is_available() else {}
    return load_pair(**{**device, **given})
