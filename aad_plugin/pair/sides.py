"""The two sides of a pair and how one step runs both: as two models, or as two rows of one adapted model.

Owns which weights see which rows and which cache. Knows nothing of scores, strategies or files.

    TwoModels   policy and reference are separate checkpoints, each with its own cache
    OneBase     one base model; policy = base + adapter, reference = base alone or base + another adapter. A step that
                needs both runs one forward of 2B rows (policy rows first), so the base weights are read once.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from aad_plugin.errors import ConfigError
from aad_plugin.pair.adapter_rows import BASE, AdapterRows
from aad_plugin.pair.cache import PairCache
from aad_plugin.pair.head import HeadInput
from aad_plugin.pair.packed_products import PackedProducts
from aad_plugin.pair.reading import (
    BuildCache,
    FindCandidates,
    Plausible,
    Role,
    Sparing,
    read_model,
    side_by_side,
    switched,
)
from aad_plugin.pair.sides_in_turns import OneBaseInTurns


class TwoModels(nn.Module):
    """Two checkpoints with one vocabulary.

    Args:
        policy, reference: causal language models in eval mode; they may stand on different devices.
    Attributes:
        passes: rows read per role since loading, one per row and forward.
        products: of both models, for the owner to switch between plain and packed.
    """

    def __init__(self, policy: PreTrainedModel, reference: PreTrainedModel) -> None:
        super().__init__()
        self.passes: Counter[str] = Counter()
        self.policy_model = policy
        self.reference_model = reference
        heads = {id(model): HeadInput(model) for model in (policy, reference)}
        self.products = PackedProducts([policy, reference])
        self._policy_head, self._reference_head = heads[id(policy)], heads[id(reference)]
        self._is_one_model = _equal_weights(policy, reference)

    @property
    def policy(self) -> PreTrainedModel:
        return self.policy_model

    @property
    def gives_columns(self) -> bool:
        """Whether both heads' logits can be had one by one, in float32; False before the first step."""
        return self._policy_head.gives_columns and self._reference_head.gives_columns

    @property
    def gives_sums(self) -> bool:
        """Whether whole rows of both sides keep their heads' float32 sums."""
        return self._policy_head.gives_sums and self._reference_head.gives_sums

    def auto(self, rows: int) -> Sparing:
        """What ``shortcuts=auto`` spares for a batch of ``rows``."""
        if self._reference_head.is_costly:
            return Sparing(candidates=True, lazy=True)
        # A single row often has one plausible token, several hardly ever all at once.
        return Sparing(candidates=False, lazy=rows == 1)

    def models(self) -> dict[Role, PreTrainedModel]:
        """The models whose weights are held, by role."""
        return {"policy": self.policy_model, "reference": self.reference_model}

    @contextlib.contextmanager
    def role(self, role: Role) -> Iterator[PreTrainedModel]:
        """Inside the block the yielded model, read by itself, is this side."""
        yield self._model(role)

    def spare(self, choice: str) -> contextlib.AbstractContextManager[None]:
        """Inside the block work is spared as ``choice`` of shortcuts says; see ``AlignedPair``."""
        return self.products.use(choice)

    def new_cache(self, roles: Sequence[Role], build: BuildCache) -> Cache | None:
        """Return a cache for the roles of one decoding, or None where the host wants none."""
        return side_by_side([build(self._model(role)) for role in roles])

    def logits(
        self,
        roles: Sequence[Role],
        input_ids: Tensor,
        cache: Cache | None,
        logits_to_keep: int,
        **inputs: Tensor | None,
    ) -> list[Tensor]:
        """Return per role (B, K, V) logits on the policy's device."""
        caches = cache.caches if isinstance(cache, PairCache) else [cache] * len(roles)
        rows = []
        with self._exact() if len(roles) == 2 else contextlib.nullcontext():
            for role, own_cache in zip(roles, caches, strict=True):
                given = {"input_ids": input_ids, **inputs}
                if role == "reference" and isinstance(cache, PairCache):
                    cache.put_off(input_ids=input_ids, position_ids=inputs.get("position_ids"))
                    given.update(cache.catch_up())
                logits = self._read(role, own_cache, logits_to_keep or input_ids.shape[1], given)
                rows.append(logits.to(input_ids.device))
        return rows

    @contextlib.contextmanager
    def _exact(self) -> Iterator[None]:
        with self._policy_head.exact(), self._reference_head.exact():
            yield

    def logits_as_needed(
        self,
        is_open: Callable[[Tensor], bool],
        input_ids: Tensor,
        cache: Cache | None,
        keep: int,
        **inputs: Tensor | None,
    ) -> list[Tensor]:
        """Return the policy's (B, K, V) logits, and the reference's only where ``is_open`` of the policy's is true.

        A reference that is not asked puts its reading off and catches up in one forward.
        """
        caches = cache.caches if isinstance(cache, PairCache) else (None, None)
        given: dict[str, Tensor | None] = {"input_ids": input_ids, **inputs}
        with self._exact():
            policy_logits = self._read("policy", caches[0], keep, given)
            if isinstance(cache, PairCache):
                cache.put_off(input_ids=input_ids, position_ids=inputs.get("position_ids"))
            if not self._is_one_model and not is_open(policy_logits):
                return [policy_logits]
            given.update(cache.catch_up() if isinstance(cache, PairCache) else {})
            return [policy_logits, self._read("reference", caches[1], keep, given).to(policy_logits.device)]

    def plausible(
        self,
        find: FindCandidates,
        input_ids: Tensor,
        cache: Cache | None,
        keep: int,
        lazy: bool,
        whole: bool = False,
        **inputs: Tensor | None,
    ) -> Plausible:
        """Run one step whose reference is read at the plausible tokens only.

        Args:
            find: lists the plausible sets of (R, V) policy logits.
            keep: positions to score, counted from the end.
            lazy: put the reference's reading off while no row has a choice, and catch up in one forward.
            whole: whether somebody wants to see the reference's whole rows; no choice depends on it.
        """
        caches = cache.caches if isinstance(cache, PairCache) else (None, None)
        given: dict[str, Tensor | None] = {"input_ids": input_ids, **inputs}
        with self._policy_head.project(len(input_ids)):
            policy_logits = self._read("policy", caches[0], keep, given).flatten(0, 1)
        policy_hidden = self._policy_head.take(keep)
        candidates = find(policy_logits)
        if isinstance(cache, PairCache):
            cache.put_off(input_ids=input_ids, position_ids=inputs.get("position_ids"))
        if lazy and candidates.most == 1 and not self._is_one_model:
            return Plausible(policy_logits, candidates)
        given.update(cache.catch_up() if isinstance(cache, PairCache) else {})
        # The reference's own head projects nothing where its columns can be had one by one.
        spared = self._reference_head.gives_columns and not whole
        with self._reference_head.project(0 if spared else len(input_ids)):
            reference_logits = self._read("reference", caches[1], keep, given).flatten(0, 1)
        reference_hidden = self._reference_head.take(keep)
        policy_values = self._policy_head.values(policy_hidden, policy_logits, candidates)
        reference_values = self._reference_head.values(reference_hidden, reference_logits, candidates)
        values = policy_values, reference_values.to(policy_logits.device)
        shown = reference_logits.to(policy_logits.device) if whole else None
        return Plausible(policy_logits, candidates, *values, shown)

    def _read(self, role: Role, cache: Cache | None, keep: int, inputs: dict[str, Tensor | None]) -> Tensor:
        model = self._model(role)
        self.passes[role] += len(inputs["input_ids"])  # type: ignore[arg-type]
        given = {name: value.to(model.device) for name, value in inputs.items() if value is not None}
        logits = read_model(model, given.pop("input_ids"), cache, keep, **given)
        head = self._policy_head if role == "policy" else self._reference_head
        head.compare(logits)
        return logits

    def _model(self, role: Role) -> PreTrainedModel:
        return self.policy_model if role == "policy" else self.reference_model


def _equal_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models are the same. Their advantages are then exactly 0 only if both read in the same portions:
    a chunk rounds differently from single tokens. Stops at the first difference, usually the first tensor."""
    pairs = zip(reversed(list(one.parameters())), reversed(list(other.parameters())), strict=False)
    return all(
        a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b) for a, b in pairs
    )


class OneBase(nn.Module):
    """One base model whose adapters make the pair.

    Args:
        model: a PeftModel in eval mode with unmerged LoRA adapters.
        policy_adapter: name of the adapter that makes the policy.
        reference_adapter: name of the adapter that makes the reference; None = the base alone.
    Attributes:
        passes: rows read per role since loading, one per row and forward; a forward of both sides is one of each.
        products: of the model, for the owner to switch between plain and packed.
    Raises:
        ConfigError: the adapters cannot serve rows of one batch side by side (not LoRA, DoRA, merged).
    """

    model: Any  # a PeftModel; nn.Module's own annotation would make every attribute a tensor

    def __init__(self, model: Any, policy_adapter: str, reference_adapter: str | None = None) -> None:
        super().__init__()
        self.passes: Counter[str] = Counter()
        self.model = model
        self._adapter_of = {"policy": policy_adapter, "reference": reference_adapter or BASE}
        self._check_mixable([name for name in (policy_adapter, reference_adapter) if name])
        model.set_adapter(policy_adapter)
        self._head = HeadInput(self.policy)
        self._rows = AdapterRows(model, [name for name in (policy_adapter, reference_adapter) if name])
        self.products = self._rows.products
        self._merges = False
        self.merging_is_proven = True

    @property
    def policy(self) -> PreTrainedModel:
        """The base model with the policy's adapter active."""
        return self.model.get_base_model()

    @property
    def adapters(self) -> tuple[str, str | None]:
        """Names of the adapters that make policy and reference; None where the base alone is the reference."""
        policy, reference = self._adapter_of["policy"], self._adapter_of["reference"]
        return policy, None if reference == BASE else reference

    @property
    def gives_columns(self) -> bool:
        """Whether the head's logits can be had one by one, in float32; False before the first step."""
        return self._head.gives_columns

    @property
    def gives_sums(self) -> bool:
        """Whether whole rows of both sides keep their head's float32 sums."""
        return self._head.gives_sums

    def auto(self, rows: int) -> Sparing:
        """What ``shortcuts=auto`` spares for a batch of ``rows``."""
        return Sparing(candidates=self._head.is_costly, lazy=False)

    def models(self) -> dict[Role, PreTrainedModel]:
        """The one model whose weights are held."""
        return {"policy": self.policy}

    def role(self, role: Role) -> contextlib.AbstractContextManager[PreTrainedModel]:
        """Inside the block the yielded model, read by itself, is this side, by PEFT's own switching."""
        adapter = self._adapter_of[role]
        return switched(self.model, self._adapter_of["policy"], None if adapter == BASE else adapter)

    def apart(self) -> OneBaseInTurns:
        """Return the same pair read by two forwards."""
        reference = self._adapter_of["reference"]
        return OneBaseInTurns(self.model, self._adapter_of["policy"], None if reference == BASE else reference)

    @contextlib.contextmanager
    def spare(self, choice: str) -> Iterator[None]:
        """Inside the block work is spared as ``choice`` of shortcuts says; see ``AlignedPair``."""
        before, self._merges = self._merges, choice != "none" and self.can_merge
        try:
            with self.products.use(choice):
                yield
        finally:
            self._merges = before

    @property
    def can_merge(self) -> bool:
        """Whether the policy alone reads weights of its own, merged; the base's are never written."""
        return self.merging_is_proven and self._rows.can_merge(self._adapter_of["policy"])

    def new_cache(self, roles: Sequence[Role], build: BuildCache) -> Cache | None:
        """Return a cache for the roles of one decoding, or None where the host wants none."""
        cache = build(self.policy)
        return PairCache(cache) if cache is not None and len(roles) == 2 else cache

    def logits(
        self,
        roles: Sequence[Role],
        input_ids: Tensor,
        cache: Cache | None,
        logits_to_keep: int,
        **inputs: Tensor | None,
    ) -> list[Tensor]:
        """Return per role (B, K, V) logits; both roles come out of one forward."""
        with self._head.exact() if len(roles) == 2 else contextlib.nullcontext():
            return list(self._read(roles, input_ids, cache, logits_to_keep, inputs).split(len(input_ids)))

    def plausible(
        self,
        find: FindCandidates,
        input_ids: Tensor,
        cache: Cache | None,
        keep: int,
        lazy: bool,
        whole: bool = False,
        **inputs: Tensor | None,
    ) -> Plausible:
        """Run one step whose reference is projected at the plausible tokens only; arguments as in :class:`TwoModels`,
        except that both sides come out of one forward and nothing is put off."""
        batch = len(input_ids)
        projected = batch if self._head.gives_columns and not whole else 2 * batch
        with self._head.project(projected):
            logits = self._read(("policy", "reference"), input_ids, cache, keep, inputs)
        hidden = self._head.take(keep)
        policy_logits = logits[:batch].flatten(0, 1)
        candidates = find(policy_logits)
        policy_values = self._head.values(hidden[:batch], policy_logits, candidates)
        reference_logits = logits[batch:].flatten(0, 1)
        reference_values = self._head.values(hidden[batch:], reference_logits, candidates)
        return Plausible(policy_logits, candidates, policy_values, reference_values, reference_logits)

    def _read(
        self, roles: Sequence[Role], input_ids: Tensor, cache: Cache | None, keep: int, inputs: dict[str, Tensor | None]
    ) -> Tensor:
        """Return (B, K, V) logits of the policy, or of both roles one after the other as (2B, K, V)."""
        given = {name: value for name, value in inputs.items() if value is not None}
        batch = len(input_ids)
        self.passes.update(dict.fromkeys(roles, batch))
        if len(roles) == 2:
            input_ids = _twice(input_ids)
            given = {name: _twice(value) for name, value in given.items()}
            cache = cache.caches[0] if isinstance(cache, PairCache) else cache
        # Without shortcuts the policy alone takes PEFT's own path: bit for bit what `--model hf` with `peft=` computes.
        alone = tuple(roles) == ("policy",)
        names = [] if alone else [self._adapter_of[role] for role in roles]
        with self._rows.merged(self._adapter_of["policy"]) if alone and self._merges else self._rows.use(names, batch):
            logits = read_model(self.policy, input_ids, cache, keep, **given)
        self._head.compare(logits)
        return logits

    def _check_mixable(self, names: list[str]) -> None:
        from peft import LoraConfig
        from peft.tuners.lora import LoraLayer

        advice = "merge it into a full checkpoint (merge_and_unload) and pass policy=… reference=…"
        for name in names:
            config = self.model.peft_config[name]
            if not isinstance(config, LoraConfig):
                raise ConfigError(f"adapter {name!r} is {config.peft_type}, expected LoRA; {advice}")
            if config.bias != "none":
                raise ConfigError(
                    f"adapter {name!r} was trained with bias={config.bias!r}, which replaces the base's biases; {advice}"
                )
            if config.use_dora:
                raise ConfigError(f"adapter {name!r} uses DoRA, whose rows cannot share a batch; {advice}")
        for path, layer in self.model.named_modules():
            if not isinstance(layer, LoraLayer):
                continue
            if layer.merged:
                raise ConfigError(
                    f"the adapters of {path} are merged into the base weights; unmerge them first or {advice}"
                )
            variants = [name for name in names if name in getattr(layer, "lora_variant", {})]
            if variants:
                raise ConfigError(f"adapter {variants[0]!r} is not plain LoRA at {path}; {advice}")


def _twice(rows: Tensor) -> Tensor:
    """Return (2B, …): the rows, then the rows again; one row costs no copy."""
    return rows.expand(2, *rows.shape[1:]) if len(rows) == 1 else rows.repeat(2, *[1] * (rows.ndim - 1))
