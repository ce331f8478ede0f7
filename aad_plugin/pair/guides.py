"""The guides of a pair while it decodes: which sides they read, and what they say of the next token.

The rule is `decoding.py`'s; weights are loaded by `guide_loading.py`; which sides there are is the sides' own affair, so a
guide that is one of the pair's own models costs no reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aad_plugin.decoding import guided_scores, likeliest_plausible, weighted_reward
from aad_plugin.errors import ConfigError
from aad_plugin.pair.cache import PairCache
from aad_plugin.pair.reading import Role
from aad_plugin.pair.reward_guide import RewardReader
from aad_plugin.pair.step import Step
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.guides import check_guided


@dataclass(frozen=True)
class TokenGuide:
    """A language model that rewards tokens: its side, and the side it is measured against, if any."""

    role: Role
    reference: Role | None = None


class Guides:
    """One pair's guides.

    Args:
        members: in the order of their weights. is_alone: whether the pair is a policy without a reference.
        accounts: per guide, what results say of it.
    """

    def __init__(
        self,
        members: Sequence[TokenGuide | RewardReader] = (),
        *,
        is_alone: bool = False,
        accounts: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.members = tuple(members)
        self.is_alone = is_alone
        self.accounts = [dict(one) for one in accounts]
        named = [role for one in self.token_guides for role in (one.role, one.reference) if role is not None]
        self.roles: tuple[Role, ...] = tuple(dict.fromkeys(("policy", *named)))

    @property
    def token_guides(self) -> list[TokenGuide]:
        """Guides that reward every token of the vocabulary."""
        return [one for one in self.members if isinstance(one, TokenGuide)]

    @property
    def readers(self) -> list[RewardReader]:
        """Guides that are asked about each candidate."""
        return [one for one in self.members if isinstance(one, RewardReader)]

    @property
    def cache_roles(self) -> tuple[Role, ...]:
        """Who keeps a cache while decoding is guided."""
        return (*self.roles, *(reader.role for reader in self.readers))

    def check(self, settings: DecodingSettings) -> None:
        """Raise ConfigError for settings that these guides cannot decode by."""
        check_guided(settings, len(self.members), self.is_alone)

    def refuse_several(self, option: str) -> None:
        """Raise ConfigError where ``option`` reads several tokens at once and a guide is asked about candidates."""
        if self.readers:
            raise ConfigError(
                f"a sequence reward model is asked about one token at a time, {option} reads several at once: leave one out"
            )

    def score(
        self, settings: DecodingSettings, rows: Mapping[Role, Tensor], step: Step, traced: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return (B, K, V) scores of the next token, and where it is traced what the guides say of each token.

        Args:
            rows: role -> (B, K, V) logits of :attr:`roles`. step: what sequence reward models have not read yet.
        Raises:
            ConfigError: sequence reward models and K > 1, or prompts with pictures.
        """
        self.check(settings)
        if self.readers and step.multimodal is not None:
            raise ConfigError(
                f"a sequence reward model reads text alone and cannot guide answers to pictures, got "
                f"guide={self.readers[0].name}: leave it out for prompts with pictures"
            )
        policy = rows["policy"]
        reward: Tensor | None = None
        wide = torch.promote_types(policy.dtype, torch.float32)
        said = torch.zeros_like(policy, dtype=wide) if traced else None
        plausible: Tensor | None = None
        candidates: tuple[Tensor, Tensor] | None = None
        for guide, scale in zip(self.members, settings.guide_scales(len(self.members)), strict=True):
            if isinstance(guide, TokenGuide):
                measured = None if guide.reference is None else rows[guide.reference]
                own = weighted_reward(rows[guide.role], measured, scale)
                reward = own if reward is None else reward + own
                if said is not None:
                    normal = rows[guide.role].float().log_softmax(-1)
                    said += scale * (normal if measured is None else normal - measured.float().log_softmax(-1))
                continue
            if policy.shape[1] != 1:
                self.refuse_several(f"a forward that scores {policy.shape[1]} positions")
            if candidates is None:
                candidates = likeliest_plausible(policy[:, 0], settings.alpha, settings.guide_top_k)
                plausible = torch.zeros_like(policy, dtype=torch.bool)[:, 0].scatter(-1, *candidates)[:, None]
            values = scale * self._asked(guide, candidates[0], step).to(wide)  # (B, N)
            values = values.masked_fill(~candidates[1], 0.0)
            own = torch.zeros_like(policy, dtype=wide).scatter(-1, candidates[0][:, None], values[:, None])
            reward = own if reward is None else reward + own
            said = None if said is None else said + own
        assert reward is not None, "checked above"
        return guided_scores(policy, reward, settings.alpha, plausible), said

    def _asked(self, reader: RewardReader, tokens: Tensor, step: Step) -> Tensor:
        if isinstance(step.cache, PairCache):  # theirs are the last
            step = step.alone(self.readers.index(reader) - len(self.readers))
        return reader.rewards(step, tokens)
