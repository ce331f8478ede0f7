"""A pair's sides beside guides that are models of their own: language models with a head each, and sequence reward models.

What needs the pair alone goes to the pair's own sides as it is; a decoding that reads guides, too, keeps the pair's cache
and theirs side by side.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from aad_plugin.pair.cache import PairCache
from aad_plugin.pair.head import HeadInput
from aad_plugin.pair.packed_products import PackedProducts
from aad_plugin.pair.reading import BuildCache, FindCandidates, Plausible, Role, Sparing, read_model
from aad_plugin.pair.reward_guide import RewardReader
from aad_plugin.pair.sides import Sides
from aad_plugin.pair.step import Step


class GuidedCache(PairCache):
    """The cache of the pair's own sides, then one for each guide that a decoding reads."""


class WithGuides(Sides):
    """Any sides, and guides.

    Args:
        inner: the pair's. models: language models by role. readers: reward models, whose weights belong to the pair.
    """

    inner: Sides

    def __init__(
        self, inner: Sides, models: Mapping[Role, PreTrainedModel], readers: Sequence[RewardReader] = ()
    ) -> None:
        super().__init__((*inner.roles, *models))
        self.inner = inner
        self._guests, self._readers = tuple(models), {reader.role: reader for reader in readers}
        self._heads = {role: HeadInput(model) for role, model in models.items()}
        for role, model in [*models.items(), *self._readers.items()]:
            self.add_module(f"{role}_model", model)
        self.called = inner.called

    # What is asked of the pair alone.

    @property
    def passes(self) -> Counter[str]:  # type: ignore[override]
        """Rows read per role, guides' among them."""
        return self.inner.passes if "inner" in self._modules else Counter()

    @passes.setter
    def passes(self, value: Counter[str]) -> None:
        if "inner" in self._modules:
            self.inner.passes = value

    @property
    def products(self) -> PackedProducts:  # type: ignore[override]
        """The pair's own."""
        return self.inner.products

    @property
    def policy(self) -> PreTrainedModel:
        """The policy, as it stands when nothing else is read."""
        return self.inner.policy

    @property
    def gives_columns(self) -> bool:  # type: ignore[override]
        return self.inner.gives_columns

    @property
    def gives_sums(self) -> bool:  # type: ignore[override]
        return self.inner.gives_sums

    @property
    def can_wait(self) -> bool:  # type: ignore[override]
        return self.inner.can_wait

    @property
    def can_merge(self) -> bool:
        return self.inner.can_merge

    @property
    def merging_is_proven(self) -> bool:  # type: ignore[override]
        return self.inner.merging_is_proven

    @merging_is_proven.setter
    def merging_is_proven(self, value: bool) -> None:
        self.inner.merging_is_proven = value

    def auto(self, rows: int) -> Sparing:
        return self.inner.auto(rows)

    def spare(self, choice: str) -> contextlib.AbstractContextManager[None]:
        return self.inner.spare(choice)

    def exact(self) -> contextlib.AbstractContextManager[None]:
        return self.inner.exact()

    def extrapolate(self, scale: float) -> None:
        self.inner.extrapolate(scale)

    def have_same_weights(self) -> bool:
        return self.inner.have_same_weights()

    def logits_as_needed(self, is_open: Callable[[Tensor], bool], step: Step) -> list[Tensor]:
        return self.inner.logits_as_needed(is_open, step)

    def plausible(self, find: FindCandidates, step: Step, lazy: bool, whole: bool = False) -> Plausible:
        return self.inner.plausible(find, step, lazy, whole)

    # What the guides take part in.

    def models(self) -> dict[Role, PreTrainedModel]:
        """The language models whose weights are held, by role."""
        return {**self.inner.models(), **{role: self._guest(role) for role in self._guests}}

    def role(self, role: Role) -> contextlib.AbstractContextManager[PreTrainedModel]:
        """Inside the block the yielded model, read by itself, is this side."""
        if role in self._guests:
            return contextlib.nullcontext(self._guest(role))
        return self.inner.role(role)

    def apart(self) -> Sides:
        inner = self.inner.apart()
        if inner is self.inner:
            return self
        return WithGuides(inner, {role: self._guest(role) for role in self._guests}, list(self._readers.values()))

    def new_cache(self, roles: Sequence[Role], build: BuildCache) -> Cache | None:
        """Return a cache for the roles of one decoding; one of reward models grows whatever the others do."""
        own = self._own(roles)
        cache = self.inner.new_cache(own, build)
        if len(own) == len(roles):
            return cache
        others: list[Cache | None] = [build(self._guest(role)) for role in roles if role in self._guests]
        others += [reader.new_cache() for role, reader in self._readers.items() if role in roles]
        known = [one for one in (cache, *others) if one is not None]
        return GuidedCache(*known, sides=len(roles)) if len(known) == 1 + len(others) else None

    def logits(self, roles: Sequence[Role], step: Step) -> list[Tensor]:
        own = self._own(roles)
        found: dict[Role, Tensor] = {}
        if own:
            inner = step.alone(0) if isinstance(step.cache, GuidedCache) else step
            found.update(zip(own, self.inner.logits(own, inner), strict=True))
        for number, role in enumerate((role for role in roles if role in self._guests), start=1):
            model, head = self._guest(role), self._heads[role]
            self.passes[role] += len(step.input_ids)
            with head.exact():
                row = read_model(model, step.alone(number).to(model.device))
            head.compare(row)
            found[role] = row.to(step.input_ids.device)
        return [found[role] for role in roles]

    def _guest(self, role: Role) -> PreTrainedModel:
        return cast(PreTrainedModel, self.get_submodule(f"{role}_model"))

    def _own(self, roles: Sequence[Role]) -> list[Role]:
        """Those of the roles that the pair's own sides read."""
        return [role for role in roles if role not in self._guests and role not in self._readers]
