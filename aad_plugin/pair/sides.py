"""The sides of a pair and how one step runs them: what every kind of sides offers, and how the plainest of them does it.

A side is a role ("policy", "reference", and whatever a strategy reads besides) with the weights that play it. The policy
comes first. Knows nothing of scores, strategies or files.

    Checkpoints     every side is a checkpoint of its own with a cache of its own
    OneBase         one base model under adapters: a step of several sides is one forward, so the base is read once
    OneBaseInTurns  the same, read side by side by PEFT's own switching
    SidesByRow      any of them without padding and without caches
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from aad_plugin.pair.packed_products import PackedProducts
from aad_plugin.pair.reading import BuildCache, FindCandidates, Forward, Plausible, Role, Sparing
from aad_plugin.pair.step import Step
from aad_plugin.settings import DecodingSettings


class Sides(nn.Module):
    """Weights by role. By itself it spares nothing: whole rows at every step, plausible tokens read off them.

    Attributes:
        roles: of the sides, the policy's first.
        called: this way to read them, in results and messages.
        products: of all models, for the owner to switch between plain and packed.
        passes: rows read per role since loading, one per row and forward.
        gives_columns: whether heads' logits can be had one by one, in float32; False before the first step.
        gives_sums: whether whole rows keep their heads' float32 sums.
        can_merge: whether the policy alone reads weights of its own, merged; the base's are never written.
        can_compile: whether :meth:`forwards` says all that a step does.
        can_wait: whether sides after the policy can put their reading off, see :meth:`logits_as_needed`.
    """

    called = ""
    products: PackedProducts
    gives_columns = gives_sums = can_wait = can_compile = False
    merging_is_proven = True

    def __init__(self, roles: Sequence[Role]) -> None:
        super().__init__()
        self.roles = tuple(roles)
        self.passes: Counter[str] = Counter()

    @property
    def policy(self) -> PreTrainedModel:
        """The policy, as it stands when nothing else is read."""
        raise NotImplementedError

    @property
    def can_merge(self) -> bool:
        return False

    def models(self) -> dict[Role, PreTrainedModel]:
        """The models whose weights are held, by role."""
        raise NotImplementedError

    def role(self, role: Role) -> contextlib.AbstractContextManager[PreTrainedModel]:
        """Inside the block the yielded model, read by itself, is this side."""
        raise NotImplementedError

    def apart(self) -> Sides:
        """The same weights read by plainer forwards; itself where there are none plainer."""
        return self

    def in_batches(self) -> Sides:
        """The same weights read batch by batch; itself but for sides that are read row by row."""
        return self

    def extrapolate(self, scale: float) -> None:
        """Make the role "expo", one model at θ_policy + scale · (θ_policy − θ_reference), readable; cheap if it is there.

        Raises:
            ConfigError: the sides' weights cannot be added up.
        """
        raise NotImplementedError

    def have_same_weights(self) -> bool:
        """Whether policy and reference are one model by their weights; False where that is not known."""
        return False

    def auto(self, rows: int) -> Sparing:
        """What ``shortcuts=auto`` spares for a batch of ``rows``."""
        return Sparing(candidates=False, lazy=False)

    def spare(self, choice: str) -> contextlib.AbstractContextManager[None]:
        """Inside the block work is spared as ``choice`` of shortcuts says; see ``AlignedPair``."""
        return self.products.use(choice)

    def exact(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block the policy's head keeps its sums in float32 where it can, for a difference of two readings."""
        return contextlib.nullcontext()

    def new_cache(self, roles: Sequence[Role], build: BuildCache) -> Cache | None:
        """Return a cache for the roles of one decoding, or None where the host wants none."""
        raise NotImplementedError

    def logits(self, roles: Sequence[Role], step: Step) -> list[Tensor]:
        """Return per role (B, K, V) logits on the policy's device.

        Args:
            roles: which sides, the policy first where it is one of them.
            step: with a cache of :meth:`new_cache` for these roles, or none.
        """
        raise NotImplementedError

    def forwards(self, roles: Sequence[Role], cache: Cache) -> list[Forward]:
        """Return the forwards of a step of these roles, whose logits are theirs in this order, for a host that compiles
        them inside :meth:`reading`. For sides that can be compiled."""
        raise NotImplementedError

    def reading(self, roles: Sequence[Role], batch: int) -> contextlib.AbstractContextManager[Any]:
        """Inside the block :meth:`forwards` of ``batch`` rows give these roles' logits."""
        raise NotImplementedError

    def logits_as_needed(self, is_open: Callable[[Tensor], bool], step: Step) -> list[Tensor]:
        """Return the policy's (B, K, V) logits, and the reference's only where ``is_open`` of the policy's is true.

        A reference that is not asked puts its reading off and catches up in one forward. For sides that can wait.
        """
        raise NotImplementedError

    def plausible(self, find: FindCandidates, step: Step, lazy: bool, whole: bool = False) -> Plausible:
        """Run one step of policy and reference in which only plausible tokens matter.

        Args:
            find: lists the plausible sets of (B · K, V) policy logits.
            lazy: put the reference's reading off while no row has a choice, and catch up in one forward.
            whole: whether somebody wants to see the reference's whole rows; no choice depends on it.
        """
        rows = self.logits(("policy", "reference"), step)
        policy, reference = (row.flatten(0, 1) for row in rows)  # (B, K, V) -> (B · K, V)
        found = find(policy)
        place = found.rows.to(policy.device), found.tokens.to(policy.device)
        return Plausible(policy, found, policy[place].float(), reference[place].float(), reference)


class ReadPair(Protocol):
    """What proofs and recorders see of a pair (:class:`aad_plugin.pair.model.AlignedPair`, which calls them)."""

    sides: Sides
    vocab_size: int
    settings: DecodingSettings
    tokenizer: Any
    processor: Any
    picture_text: Any
    shortcuts: str
    is_cached: bool
    proof_file: Path | None
    proven_uses: set[str]

    def new_cache(self) -> Cache | None:
        """An empty cache for both models; None for a pair without."""
