"""Sides that are one base model under different adapters: a step of several of them is one forward, side after side in
the rows of its batch, so the base's weights are read once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from aad_plugin.errors import ConfigError
from aad_plugin.pair.adapter_rows import AdapterRows
from aad_plugin.pair.adapter_siblings import BASE
from aad_plugin.pair.cache import PairCache
from aad_plugin.pair.head import HeadInput
from aad_plugin.pair.reading import (
    EXPO,
    BuildCache,
    FindCandidates,
    Forward,
    Plausible,
    Role,
    Sparing,
    mixed,
    read_model,
)
from aad_plugin.pair.same_weights import equal_adapters
from aad_plugin.pair.sides import Sides
from aad_plugin.pair.sides_in_turns import AdapterSides, OneBaseInTurns
from aad_plugin.pair.step import Step, repeated


class OneBase(AdapterSides):
    """One base model whose adapters make the sides. ``passes`` counts a forward of several sides once for each.

    Args:
        model: a PeftModel in eval mode with unmerged LoRA adapters.
        policy_adapter: name of the adapter that makes the policy.
        reference_adapter: name of the adapter that makes the reference; None = the base alone.
        **others: of further sides, likewise.
    Raises:
        ConfigError: the adapters cannot serve rows of one batch side by side (not LoRA, DoRA, merged).
    """

    called = "shared rows"

    def __init__(
        self, model: Any, policy_adapter: str, reference_adapter: str | None = None, **others: str | None
    ) -> None:
        super().__init__(model, {"policy": policy_adapter, "reference": reference_adapter, **others})
        named = list(dict.fromkeys(name for name in self.adapters.values() if name))
        self._check_mixable(named)
        self._head = HeadInput(self.policy)
        self._rows = AdapterRows(model, named)
        self.products = self._rows.products
        self._merges = False

    @property
    def gives_columns(self) -> bool:  # type: ignore[override]
        return self._head.gives_columns

    @property
    def gives_sums(self) -> bool:  # type: ignore[override]
        return self._head.gives_sums

    @property
    def can_merge(self) -> bool:
        return self.merging_is_proven and self._rows.can_merge(self._policy_adapter)

    def auto(self, rows: int) -> Sparing:
        return Sparing(candidates=self._head.is_costly, lazy=False)

    def apart(self) -> Sides:
        return OneBaseInTurns(self.model, self.adapters)

    def have_same_weights(self) -> bool:
        return equal_adapters(self.model, self._policy_adapter, self.adapters["reference"])

    @contextlib.contextmanager
    def spare(self, choice: str) -> Iterator[None]:
        before, self._merges = self._merges, choice != "none" and self.can_merge
        try:
            # Changes of adapters first: what they are written to may have packed copies.
            with self._rows.once(), super().spare(choice):
                yield
        finally:
            self._merges = before

    def exact(self) -> contextlib.AbstractContextManager[None]:
        return self._head.exact()

    def new_cache(self, roles: Sequence[Role], build: BuildCache) -> Cache | None:
        cache = build(self.policy)
        return PairCache(cache, sides=len(roles)) if cache is not None and len(roles) > 1 else cache

    def logits(self, roles: Sequence[Role], step: Step) -> list[Tensor]:
        with self._head.exact() if len(roles) > 1 else contextlib.nullcontext():
            rows = self._read(roles, step)
            return list(rows.split(len(step.input_ids)))  # (S · B, K, V) -> S of (B, K, V)

    @property
    def can_compile(self) -> bool:  # type: ignore[override]
        return self._rows.can_compile

    def forwards(self, roles: Sequence[Role], cache: Cache) -> list[Forward]:
        self._rows.pin()
        return [Forward(self.policy, cache.caches[0] if isinstance(cache, PairCache) else cache, len(roles))]

    @contextlib.contextmanager
    def reading(self, roles: Sequence[Role], batch: int) -> Iterator[None]:
        with self._head.exact() if len(roles) > 1 else contextlib.nullcontext(), self._routed(tuple(roles), batch):
            yield

    def plausible(self, find: FindCandidates, step: Step, lazy: bool, whole: bool = False) -> Plausible:
        """As in :class:`Sides`, except that both sides come out of one forward and nothing is put off."""
        batch = len(step.input_ids)
        projected = batch if self._head.gives_columns and not whole else 2 * batch
        with self._head.project(projected):
            logits = self._read(("policy", "reference"), step)  # (B or 2B, K, V)
        hidden = self._head.take(step.keep)  # (2B, K, H)
        policy_logits = logits[:batch].flatten(0, 1)  # (B, K, V) -> (B · K, V)
        candidates = find(policy_logits)
        policy_values = self._head.values(hidden[:batch], policy_logits, candidates)
        reference_logits = logits[batch:].flatten(0, 1)
        reference_values = self._head.values(hidden[batch:], reference_logits, candidates)
        return Plausible(policy_logits, candidates, policy_values, reference_values, reference_logits)

    def _read(self, roles: Sequence[Role], step: Step) -> Tensor:
        """Return (B, K, V) logits of one side, or of S sides one after the other as (S · B, K, V)."""
        sides, batch = len(roles), len(step.input_ids)
        self.passes.update(dict.fromkeys(roles, batch))
        step = step.alone(0)
        if sides > 1 and step.multimodal is None:  # else pictures are read once, and the rows multiply behind them
            step = repeated(step, sides)
        # Without shortcuts the policy alone takes PEFT's own path: bit for bit what `--model hf` with `peft=` computes.
        with self._routed(tuple(roles), batch):
            logits = read_model(self.policy, step, sides)
        self._head.compare(logits)
        return logits

    def _routed(self, roles: tuple[Role, ...], batch: int) -> contextlib.AbstractContextManager[Any]:
        """Inside the block the base's rows are these sides'."""
        if roles not in (("policy",), (EXPO,)):
            return self._rows.use([self.adapters[role] or BASE for role in roles], batch)
        mix = self._expo if roles == (EXPO,) else ((self._policy_adapter, 1.0),)
        if self._merges:
            return self._rows.merged(mix)
        return mixed(self.model, self._policy_adapter, mix) if roles == (EXPO,) else contextlib.nullcontext()

    def _check_mixable(self, names: list[str]) -> None:
        from peft import LoraConfig
        from peft.tuners.lora import LoraLayer

        advice = "merge it into a full checkpoint (merge_and_unload) and pass policy=…,reference=…"
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
            variants = [name for name in names if name in getattr(layer, "lora_variant", {})]
            if variants:
                raise ConfigError(f"adapter {variants[0]!r} is not plain LoRA at {path}; {advice}")
