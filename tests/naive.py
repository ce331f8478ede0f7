"""What every strategy means, as a loop that re-reads the whole prefix with both models at each step: no cache, no batch,
no shortcut, float64. Whatever an engine combines is held against it.

`tests.toys.naive_aad` is the loop of AAD alone, with counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aad_plugin.pair.sampling import prompt_key, uniform
from aad_plugin.settings import DecodingSettings
from tests.toys import Logits, log_softmax, naive_aad

_FLOOR = (
    1000.0  # under a row's plausible tokens, in the policy's order: beams and bans may need a token outside the set
)
Choose = Callable[[list[int], list[int]], int]


@dataclass(frozen=True)
class NaivePair:
    """The two models of a pair as the loop reads them: a prefix in, its next token's (V) logits out.

    ``expo`` gives the model of extrapolated weights by its scale, ``distorted`` is the policy that sees noisy pictures;
    None where nobody asks for them.
    """

    policy: Logits
    reference: Logits
    expo: Callable[[float], Logits] | None = None
    distorted: Logits | None = None

    def scores(self, settings: DecodingSettings, prefix: list[int]) -> np.ndarray:
        """(V) float64 scores of the next token by a strategy of token by token; a draw's are the policy's."""
        if settings.strategy == "reference":
            return log_softmax(self.reference(prefix))
        if settings.strategy == "expo":
            assert self.expo is not None
            return log_softmax(self.expo(settings.expo_scale)(prefix))
        policy = log_softmax(self.policy(prefix))
        if settings.strategy == "vcd":
            assert self.distorted is not None
            inside = policy >= np.log(settings.cd_beta) + policy.max()
            sums = policy + settings.cd_alpha * (policy - log_softmax(self.distorted(prefix)))
            return np.where(inside, sums - sums[inside].min(), policy - policy.max() - _FLOOR)
        if settings.strategy == "eft":
            reference = log_softmax(self.reference(prefix))
            return reference + settings.eft_scale * (policy - reference)
        if settings.strategy not in ("aad", "guided"):
            return policy
        advantage = policy - log_softmax(self.reference(prefix))
        if settings.strategy == "guided":  # the pair's own advantage as its one guide
            inside = policy >= np.log(settings.alpha) + policy.max()
            sums = policy + settings.guide_scale * advantage
            return np.where(inside, sums - sums[inside].min(), policy - policy.max() - _FLOOR)
        return np.where(policy >= np.log(settings.alpha) + policy.max(), advantage, policy - _FLOOR)

    def answer(self, settings: DecodingSettings, prompt: list[int], steps: int) -> list[int]:
        """The strategy's answer of so many tokens; no token ends it."""
        if settings.strategy == "aad":
            return naive_aad(self.policy, self.reference, prompt, steps, settings.alpha, None).tokens
        if settings.strategy == "best_of_n":
            drawn = [self._drawn(settings, prompt, number, steps) for number in range(settings.n)]
            return max(drawn, key=lambda answer: self._implicit_reward(prompt, answer))
        if settings.strategy == "sample":
            return self._drawn(settings, prompt, 0, steps)
        return self._loop(prompt, steps, lambda prefix, _: int(self.scores(settings, prefix).argmax()))

    def searched(self, settings: DecodingSettings, prompt: list[int], steps: int, beams: int) -> list[int]:
        """The best of so many beams: the answer with the largest sum of log-softmaxed scores found."""
        kept: list[tuple[float, list[int]]] = [(0.0, [])]
        for _ in range(steps):
            grown = []
            for total, answer in kept:
                row = log_softmax(self.scores(settings, prompt + answer))
                best = np.argsort(-row)[: 2 * beams]
                grown += [(total + float(row[token]), [*answer, int(token)]) for token in best]
            kept = sorted(grown, key=lambda beam: -beam[0])[:beams]
        return kept[0][1]

    def nucleus(self, settings: DecodingSettings, prefix: list[int]) -> np.ndarray:
        """(V) float64 probabilities that a draw takes its token from; 0 outside the nucleus."""
        probs = np.exp(log_softmax(log_softmax(self.policy(prefix)) / settings.temperature))
        order = np.argsort(-probs)
        before = np.cumsum(probs[order]) - probs[order]
        return np.where(np.isin(np.arange(len(probs)), order[before < settings.top_p]), probs, 0.0)

    def _drawn(self, settings: DecodingSettings, prompt: list[int], number: int, steps: int) -> list[int]:
        key = prompt_key(prompt)

        def choose(prefix: list[int], answer: list[int]) -> int:
            cumulated = np.cumsum(self.nucleus(settings, prefix))
            noise = uniform(settings.seed, key, number, len(answer)) * cumulated[-1]
            return int(np.searchsorted(cumulated, noise, side="right"))

        return self._loop(prompt, steps, choose)

    def _loop(self, prompt: list[int], steps: int, choose: Choose) -> list[int]:
        answer: list[int] = []
        for _ in range(steps):
            answer.append(choose(prompt + answer, answer))
        return answer

    def _implicit_reward(self, prompt: list[int], answer: list[int]) -> float:
        prefixes = [prompt + answer[:step] for step in range(len(answer))]
        ratios = [log_softmax(self.policy(prefix)) - log_softmax(self.reference(prefix)) for prefix in prefixes]
        return float(sum(ratio[token] for ratio, token in zip(ratios, answer, strict=True)))
