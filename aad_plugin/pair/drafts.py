"""Drafts: a small model guesses the next tokens, the pair reads them in one forward and keeps those it would have chosen.

Owns the guessing alone. What is kept is decided by transformers' assisted generation, which compares the guesses with the
pair's own argmax at each position, so a draft changes how fast an answer comes and, in float32, nothing of it. Knows
nothing of scores or strategies. Loading is ``draft_loading.py``.

    pair = AlignedPair.from_pretrained("demo", draft_model="demo")
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation.candidate_generator import CandidateGenerator

from aad_plugin.pair.reading import read_model
from aad_plugin.pair.step import Step

# Guesses of one check, and the probability below which a guess is not worth reading: `python -m experiments.drafts`.
TOKENS = 4
CONFIDENCE = 0.4


class Draft:
    """A small causal LM over the pair's token ids.

    Args:
        model: in eval mode, with a cache that can be cropped.
        vocab_size: number of shared token ids.
        name: what the user called it. mark: of its weights, for results.
        ids: (F,) int64, the token id of each row of a head over frequent tokens alone; None for a whole head.
    Attributes:
        tally: ``checks`` (forwards of the pair that read guesses or none), ``guesses``, ``tokens`` (chosen by the pair).
    """

    def __init__(
        self, model: PreTrainedModel, *, vocab_size: int, name: str, mark: str, ids: Tensor | None = None
    ) -> None:
        self.model = model
        self.vocab_size = vocab_size
        self.name, self.mark = name, mark
        self.ids = ids
        self.tally: Counter[str] = Counter()

    def account(self) -> dict[str, Any]:
        """Return what belongs into results."""
        return {"model": self.name, "weights": self.mark, "dtype": str(self.model.dtype)}

    def new_cache(self) -> Cache:
        """Return an empty cache for :meth:`guess`."""
        cache = DynamicCache(config=self.model.config)
        cache.activate_past_recording()
        return cache

    def guess(self, input_ids: Tensor, cache: Cache) -> tuple[int, float]:
        """Return the token after (1, T) ids that follow what the cache holds, and its probability; waits for the device."""
        logits = read_model(self.model, Step(input_ids, cache, keep=1))[0, -1]
        logits = logits[: self.vocab_size] if self.ids is None else logits
        confidence, token = logits.float().softmax(-1).max(-1)
        place = int(token)
        return place if self.ids is None else int(self.ids[place]), float(confidence)


class DraftReader(CandidateGenerator):
    """The guesses for one running ``generate`` call.

    Args:
        draft: guesses. padding: ids at the prompt's start that are none.
        max_length: of prompt and answer. ends: ids that end an answer. tokens: guesses of one check, at most.
        confidence: probability below which guessing stops.
    """

    def __init__(
        self, draft: Draft, *, padding: int, max_length: int, ends: frozenset[int], tokens: int, confidence: float
    ) -> None:
        self.draft = draft
        self.padding, self.max_length, self.ends = padding, max_length, ends
        self.tokens, self.confidence = tokens, confidence
        self._cache = draft.new_cache()
        self._read: list[int] = []  # what the cache holds
        self._known = 0  # ids that the pair has chosen, or been given, at the last check

    def get_candidates(self, input_ids: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        """Return (1, T + guesses) ids and no logits: the pair compares tokens, not distributions."""
        ids = input_ids[0, self.padding :].tolist()
        if self._known:
            self.draft.tally.update(checks=1, tokens=len(ids) - self._known)
        self._known = len(ids)
        room = min(self.tokens, self.max_length - input_ids.shape[1] - 1)
        guesses: list[int] = []
        if room > 0:
            self._forget(ids)
        while len(guesses) < room:
            unread = [*ids, *guesses][len(self._read) :]
            token, confidence = self.draft.guess(torch.tensor([unread], device=self.draft.model.device), self._cache)
            self._read += unread
            if confidence < self.confidence:
                break
            guesses.append(token)
            if token in self.ends:
                break
        self.draft.tally.update(guesses=len(guesses))
        return torch.cat([input_ids, input_ids.new_tensor([guesses])], dim=1) if guesses else input_ids, None

    def update_candidate_strategy(self, input_ids: Tensor, scores: Tensor, num_matches: int) -> None:
        """Change nothing: how much is guessed follows from how sure the draft is."""

    def _forget(self, ids: list[int]) -> None:
        """Take back what the draft read and the pair did not choose; at least the last id is left to be read."""
        same = len(self._read)
        while same and self._read[:same] != ids[:same]:
            same -= 1
        same = min(same, len(ids) - 1)
        if same < len(self._read):
            self._cache.crop(same - len(self._read))
            del self._read[same:]
