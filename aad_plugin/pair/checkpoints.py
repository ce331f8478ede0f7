"""Sides that are checkpoints of their own, each with its own cache; those after the policy may read late."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from aad_plugin.files.marks import weights_of
from aad_plugin.pair.cache import PairCache
from aad_plugin.pair.head import HeadInput
from aad_plugin.pair.packed_products import PackedProducts
from aad_plugin.pair.reading import (
    EXPO,
    BuildCache,
    FindCandidates,
    Forward,
    Plausible,
    Role,
    Sparing,
    read_model,
    side_by_side,
)
from aad_plugin.pair.same_weights import equal_models
from aad_plugin.pair.sides import Sides
from aad_plugin.pair.step import Step
from aad_plugin.pair.weight_watch import Watch
from aad_plugin.sources.extrapolating import extrapolated


class Checkpoints(Sides):
    """Checkpoints with one vocabulary.

    Args:
        policy, reference, **others: causal language models in eval mode by role; each may stand on a device of its own.
    """

    called = "two models"
    can_wait = can_compile = True

    def __init__(self, policy: PreTrainedModel, reference: PreTrainedModel, **others: PreTrainedModel) -> None:
        super().__init__(("policy", "reference", *others))
        models = {"policy": policy, "reference": reference, **others}
        for role, model in models.items():  # under names that marks of the weights are made with
            self.add_module(f"{role}_model", model)
        heads = {id(model): HeadInput(model) for model in models.values()}
        self.products = PackedProducts(list(models.values()))
        self._heads = {role: heads[id(model)] for role, model in models.items()}
        self._is_one_model = _equal_weights(policy, reference)
        # Kept apart from the sides' own modules: it is made of them, and what marks the pair's weights is theirs.
        self._expo: dict[tuple[float, torch.device], PreTrainedModel] = {}
        self._watch = Watch(lambda: [*policy.parameters(), *reference.parameters()])

    @property
    def policy(self) -> PreTrainedModel:
        return self._model("policy")

    @property
    def gives_columns(self) -> bool:  # type: ignore[override]
        return self._heads["policy"].gives_columns and self._heads["reference"].gives_columns

    @property
    def gives_sums(self) -> bool:  # type: ignore[override]
        return self._heads["policy"].gives_sums and self._heads["reference"].gives_sums

    def auto(self, rows: int) -> Sparing:
        if self._heads["reference"].is_costly:
            return Sparing(candidates=True, lazy=True)
        # A single row often has one plausible token, several hardly ever all at once.
        return Sparing(candidates=False, lazy=rows == 1)

    def models(self) -> dict[Role, PreTrainedModel]:
        return {role: self._model(role) for role in self.roles}

    @contextlib.contextmanager
    def role(self, role: Role) -> Iterator[PreTrainedModel]:
        yield self._model(role)

    @contextlib.contextmanager
    def spare(self, choice: str) -> Iterator[None]:
        with self._watch.once(), super().spare(choice):
            yield

    def extrapolate(self, scale: float) -> None:
        key = scale, self.policy.device
        if self._watch.changed():  # trained since, in this process
            self._expo = {}
        if key not in self._expo:
            self._expo = {}  # one at a time: each is as large as the policy
            model = extrapolated(self.policy, self._model("reference"), scale)
            self._expo = {key: model}
            self._heads[EXPO] = HeadInput(model)

    def have_same_weights(self) -> bool:
        return equal_models(self._model("policy"), self._model("reference"))

    def exact(self) -> contextlib.AbstractContextManager[None]:
        return self._heads["policy"].exact()

    def new_cache(self, roles: Sequence[Role], build: BuildCache) -> Cache | None:
        return side_by_side([build(self._model(role)) for role in roles])

    def logits(self, roles: Sequence[Role], step: Step) -> list[Tensor]:
        rows = []
        step = replace(step, keep=step.positions)  # so many are wanted of a side that catches up, too
        with self._exact(roles):
            for number, role in enumerate(roles):
                if number == 1:  # this side and all after it read what was put off, too
                    step = _caught_up(step)
                rows.append(self._read(role, step.alone(number)).to(step.input_ids.device))
        return rows

    def forwards(self, roles: Sequence[Role], cache: Cache) -> list[Forward]:
        caches = cache.caches if isinstance(cache, PairCache) else (cache,)
        return [Forward(self._model(role), own, 1) for role, own in zip(roles, caches, strict=True)]

    def reading(self, roles: Sequence[Role], batch: int) -> contextlib.AbstractContextManager[None]:
        return self._exact(roles)

    def logits_as_needed(self, is_open: Callable[[Tensor], bool], step: Step) -> list[Tensor]:
        with self._exact(("policy", "reference")):
            policy_logits = self._read("policy", step.alone(0))
            if self._may_wait(step) and not is_open(policy_logits):
                _put_off(step)
                return [policy_logits]
            reference_logits = self._read("reference", _caught_up(step).alone(1))
            return [policy_logits, reference_logits.to(policy_logits.device)]

    def plausible(self, find: FindCandidates, step: Step, lazy: bool, whole: bool = False) -> Plausible:
        batch, keep = len(step.input_ids), step.keep
        policy_head, reference_head = self._heads["policy"], self._heads["reference"]
        with policy_head.project(batch):
            policy_logits = self._read("policy", step.alone(0)).flatten(0, 1)  # (B, K, V) -> (B · K, V)
        policy_hidden = policy_head.take(keep)
        candidates = find(policy_logits)
        if lazy and candidates.most == 1 and self._may_wait(step):
            _put_off(step)
            return Plausible(policy_logits, candidates)
        late = _caught_up(step).alone(1)
        # The reference's own head projects nothing where its columns can be had one by one.
        with reference_head.project(0 if reference_head.gives_columns and not whole else batch):
            reference_logits = self._read("reference", late).flatten(0, 1)  # (0, V) where spared
        reference_hidden = reference_head.take(keep)
        policy_values = policy_head.values(policy_hidden, policy_logits, candidates)
        reference_values = reference_head.values(reference_hidden, reference_logits, candidates)
        values = policy_values, reference_values.to(policy_logits.device)
        shown = reference_logits.to(policy_logits.device) if whole else None
        return Plausible(policy_logits, candidates, *values, shown)

    def _may_wait(self, step: Step) -> bool:
        """Whether the reference may read a step later; pictures are not kept for it."""
        return not self._is_one_model and step.multimodal is None

    @contextlib.contextmanager
    def _exact(self, roles: Sequence[Role]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for role in roles if len(roles) > 1 else ():
                stack.enter_context(self._heads[role].exact())
            yield

    def _read(self, role: Role, step: Step) -> Tensor:
        model = self._model(role)
        self.passes[role] += len(step.input_ids)
        logits = read_model(model, step.to(model.device))
        self._heads[role].compare(logits)
        return logits

    def _model(self, role: Role) -> PreTrainedModel:
        if role == EXPO:
            # Until it is made the policy stands for it: caches are built alike.
            return next(iter(self._expo.values()), self.policy)
        return self.get_submodule(f"{role}_model")


def _put_off(step: Step) -> None:
    if isinstance(step.cache, PairCache):
        step.cache.put_off(input_ids=step.input_ids, position_ids=step.position_ids)


def _caught_up(step: Step) -> Step:
    """What sides after the policy read: a step's inputs, behind those that were put off."""
    if not isinstance(step.cache, PairCache):
        return step
    _put_off(step)
    unread = step.cache.catch_up()
    return replace(step, input_ids=unread["input_ids"], position_ids=unread.get("position_ids", step.position_ids))


def _equal_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models are the same. Their advantages are then exactly 0 only if both read in the same portions:
    a chunk rounds differently from single tokens. Stops at the first difference, usually the first tensor."""
    mine, theirs = ([weight for _, weight in weights_of(model)] for model in (one, other))
    pairs = zip(reversed(mine), reversed(theirs), strict=False)
    return all(
        a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b) for a, b in pairs
    )
