"""Sides that are one base model under adapters, and the plain road to read them: one side after the other, by PEFT's own
switching of adapters.

The plain road is for a base whose rows cannot share a forward: two forwards per step, each exactly what PEFT computes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from aad_plugin.errors import ConfigError
from aad_plugin.pair.extrapolation import adapter_mix
from aad_plugin.pair.packed_products import PackedProducts
from aad_plugin.pair.reading import EXPO, BuildCache, Mix, Role, mixed, read_model, side_by_side, switched
from aad_plugin.pair.sides import Sides
from aad_plugin.pair.step import Step


class AdapterSides(Sides):
    """One base model, held once, whose adapters make the sides.

    Args:
        model: a PeftModel in eval mode; the policy's adapter becomes its active one.
        adapters: role -> name of its adapter, the policy's first; None = the base alone.
    Raises:
        ConfigError: adapters are merged; to unmerge them is a subtraction, which changes the base's weights in 16 bit.
    """

    model: Any  # a PeftModel; nn.Module's own annotation would make every attribute a tensor

    def __init__(self, model: Any, adapters: Mapping[Role, str | None]) -> None:
        super().__init__(tuple(adapters))
        _refuse_merged(model)
        self.model = model
        self.adapters = dict(adapters)
        self._policy_adapter = str(self.adapters["policy"])
        model.set_adapter(self._policy_adapter)
        self._expo: Mix = ()

    def spare(self, choice: str) -> contextlib.AbstractContextManager[None]:
        """As in :class:`Sides`.

        Raises:
            ConfigError: adapters were merged since the pair was made.
        """
        _refuse_merged(self.model)
        return super().spare(choice)

    @property
    def policy(self) -> PreTrainedModel:
        """The base model with the policy's adapter active."""
        return self.model.get_base_model()

    def models(self) -> dict[Role, PreTrainedModel]:
        """The one model whose weights are held, under the role it plays outside :meth:`role`."""
        return {"policy": self.policy}

    def role(self, role: Role) -> contextlib.AbstractContextManager[PreTrainedModel]:
        """Inside the block the yielded model, read by itself, is this side, by PEFT's own switching."""
        if role == EXPO:
            return mixed(self.model, self._policy_adapter, self._expo)
        return switched(self.model, self._policy_adapter, self.adapters[role])

    def extrapolate(self, scale: float) -> None:
        self._expo = adapter_mix(self.model, self._policy_adapter, self.adapters["reference"], scale)


class OneBaseInTurns(AdapterSides):
    """As :class:`aad_plugin.pair.one_base.OneBase`, with a forward and a cache for each side; any adapter that PEFT can
    switch on and off."""

    called = "one side after the other"

    def __init__(self, model: Any, adapters: Mapping[Role, str | None]) -> None:
        super().__init__(model, adapters)
        self.products = PackedProducts([model])

    def new_cache(self, roles: Sequence[Role], build: BuildCache) -> Cache | None:
        """Return a cache for the roles of one decoding, or None where the host wants none."""
        return side_by_side([build(self.policy) for _ in roles])

    def logits(self, roles: Sequence[Role], step: Step) -> list[Tensor]:
        """Return per role (B, K, V) logits."""
        rows = []
        for number, role in enumerate(roles):
            self.passes[role] += len(step.input_ids)
            with self.role(role) as model:
                rows.append(read_model(model, step.alone(number)))
        return rows


def _refuse_merged(model: Any) -> None:
    """Raise ConfigError before PEFT would unmerge adapters in order to switch them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged = next(
        (path for path, part in model.named_modules() if isinstance(part, BaseTunerLayer) and part.merged), None
    )
    if merged is not None:
        raise ConfigError(
            f"the adapters of {merged} are merged into the base weights: load the adapter anew, unmerged, or make a full "
            "checkpoint of it (merge_and_unload) and pass policy=…,reference=…"
        )
