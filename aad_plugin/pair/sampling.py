"""Sampling whose noise belongs to the question, not to the run.

The uniform number behind every sampled token is a hash of seed, prompt, sample number and step. Batch size, batch
order, process count and a resumed run therefore change no sampled answer (up to rounding of the logits themselves).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from aad_plugin.decoding import logprobs_of
from aad_plugin.errors import ConfigError

_FIRST_NUCLEUS = 256


def prompt_key(token_ids: Sequence[int]) -> str:
    """Return a digest of a prompt's token ids, without padding."""
    return hashlib.blake2b(",".join(map(str, token_ids)).encode(), digest_size=16).hexdigest()


def uniform(seed: int, key: str, sample: int, step: int) -> float:
    """Return the number in [0, 1) that decides one token: 53 bits of a hash of its arguments."""
    digest = hashlib.blake2b(f"{seed}|{key}|{sample}|{step}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def draw_seed(seed: int, prompt: str, sample: int) -> int:
    """Return a seed in [0, 2**63) for hosts that draw a whole answer by a generator of its own.

    Args:
        prompt: as text. sample: number of the answer to it.
    """
    digest = hashlib.blake2b(f"{seed}|{sample}|{prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


_OTHER_SAMPLERS = {"top_k": 0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None}
"""transformers' options of sampling that :class:`KeyedSampler` has not, with what asks for nothing."""


_KEEP_SCORES = frozenset(
    "max_new_tokens max_length max_time pad_token_id bos_token_id eos_token_id use_cache cache_implementation "
    "cache_config prefill_chunk_size compile_config disable_compile prompt_lookup_num_tokens max_matching_ngram_size "
    "assistant_model num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold do_sample num_beams "
    "num_return_sequences return_dict_in_generate output_scores output_logits stop_strings multimodal".split()
)


def edits_scores(options: Mapping[str, Any]) -> bool:
    """Whether options of ``generate`` may change the scores that tokens are drawn from; unknown ones may.

    A penalty of 1 and whatever is not set change nothing.
    """
    return any(
        not (name in _KEEP_SCORES or value in (None, False) or value == [] or (name.endswith("penalty") and value == 1))
        for name, value in options.items()
    )


def refuse_other_samplers(strategy: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option of sampling that would have no effect on a strategy that draws."""
    for name, neutral in _OTHER_SAMPLERS.items():
        if options.get(name) not in (None, neutral):
            raise ConfigError(
                f"{name}={options[name]!r} has no effect on strategy {strategy!r}, which draws by temperature and top_p "
                "alone: leave it out (vLLM takes top_k and min_p)"
            )


class KeyedSampler(LogitsProcessor):
    """Turn scores into a draw by inverse transform sampling: one token keeps score 0, the others get −inf.

    Args:
        keys: per row, (prompt key, sample number).
        prompt_length: tokens before the first drawn one.
        temperature: > 0. top_p: nucleus mass in (0, 1]; the token that crosses it is kept, as in transformers.
        seed: of the noise.
    Attributes:
        logprobs: step → (B,) float32: log-probability of the token drawn last at that step, before temperature and nucleus.
            A host that guesses ahead comes back to a step whose guess it gave up.
    """

    def __init__(
        self, keys: Sequence[tuple[str, int]], prompt_length: int, *, temperature: float, top_p: float, seed: int
    ) -> None:
        self.keys = keys
        self.prompt_length = prompt_length
        self.temperature = temperature
        self.top_p = top_p
        self.seed = seed
        self.logprobs: dict[int, Tensor] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Map (B, V) scores to (B, V) with a single finite entry per row."""
        step = input_ids.shape[1] - self.prompt_length
        draws = torch.tensor([uniform(self.seed, key, sample, step) for key, sample in self.keys], dtype=torch.float64)
        logits = scores.float()
        chosen = _invert(*_nucleus((logits / self.temperature).softmax(-1), self.top_p), draws.to(scores.device))
        self.logprobs[step] = logprobs_of(logits, chosen[:, None]).squeeze(-1)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen[:, None], 0.0)


def _nucleus(probs: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return (B, K) token ids in ascending order and their probabilities, 0 for tokens outside the nucleus.

    A full sort of the vocabulary costs more than a small model's step, so the K best are taken, and more only while
    they hold less than ``top_p``.
    """
    vocab = probs.shape[-1]
    if top_p >= 1.0:
        return torch.arange(vocab, device=probs.device).expand_as(probs), probs
    size = min(_FIRST_NUCLEUS, vocab)
    while True:
        best, ids = probs.topk(size, dim=-1)
        before = best.double().cumsum(-1) - best
        if size == vocab or bool((before[:, -1] >= top_p).all()):
            break
        size = min(size * 8, vocab)
    kept = torch.where(before < top_p, best, 0.0)
    ids, order = ids.sort(-1)
    return ids, kept.gather(-1, order)


def _invert(ids: Tensor, weights: Tensor, draws: Tensor) -> Tensor:
    """Return (B,) ids: where the cumulated weights, in id order, pass each draw in [0, 1)."""
    cumulated = weights.double().cumsum(-1)
    target = draws[:, None] * cumulated[:, -1:]
    position = torch.searchsorted(cumulated, target, right=True).clamp(max=weights.shape[-1] - 1)
    return ids.gather(-1, position).squeeze(-1)
