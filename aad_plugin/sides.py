"""The two sides of a pair and how one step runs both: as two models, or as two rows of one adapted model.

Owns which weights see which rows and which cache. Knows nothing of scores, strategies or files.

    TwoModels   policy and reference are separate checkpoints, each with its own cache
    OneBase     one base model; policy = base + adapter, reference = base alone or base + another adapter. A step that
                needs both runs one forward of 2B rows (policy rows first), so the base weights are read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from aad_plugin.errors import ConfigError
from aad_plugin.pair_cache import PairCache

__all__ = ["OneBase", "Role", "TwoModels"]

Role = Literal["policy", "reference"]
BuildCache = Callable[[PreTrainedModel], Cache | None]


def _run(
    model: PreTrainedModel, input_ids: Tensor, cache: Cache | None, logits_to_keep: int, **inputs: Tensor
) -> Tensor:
    """Return (B, K, V) logits of the last ``logits_to_keep`` positions, all of them for 0."""
    keep = {"logits_to_keep": logits_to_keep} if model._supports_logits_to_keep() else {}
    logits = model(input_ids=input_ids, past_key_values=cache, use_cache=cache is not None, **keep, **inputs).logits
    return logits[:, -logits_to_keep:] if logits_to_keep else logits


def _contiguous_head_input(model: PreTrainedModel) -> None:
    """Have the head read a contiguous copy of the positions that are kept.

    The kept positions are a strided view of all of them, for which torch (2.13, CPU) expands the head's weights to one
    copy per row of the batch: hundreds of megabytes and seconds at every prefill.
    """

    def copy(module: nn.Module, args: tuple) -> tuple:
        return (args[0].contiguous(), *args[1:])

    model.get_output_embeddings().register_forward_pre_hook(copy)


class TwoModels(nn.Module):
    """Two checkpoints with one vocabulary.

    Args:
        policy, reference: causal language models in eval mode; they may stand on different devices.
    """

    def __init__(self, policy: PreTrainedModel, reference: PreTrainedModel) -> None:
        super().__init__()
        self.policy_model = policy
        self.reference_model = reference
        for model in {id(m): m for m in (policy, reference)}.values():
            _contiguous_head_input(model)

    @property
    def policy(self) -> PreTrainedModel:
        return self.policy_model

    def new_cache(self, roles: Sequence[Role], build: BuildCache) -> Cache | None:
        """Return a cache for the roles of one decoding, or None where the host wants none."""
        caches = [build(self._model(role)) for role in roles]
        if any(cache is None for cache in caches):
            return None
        return caches[0] if len(caches) == 1 else PairCache(*caches)

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
        for role, own_cache in zip(roles, caches, strict=True):
            model = self._model(role)
            given = {name: value.to(model.device) for name, value in inputs.items() if value is not None}
            rows.append(
                _run(model, input_ids.to(model.device), own_cache, logits_to_keep, **given).to(input_ids.device)
            )
        return rows

    def _model(self, role: Role) -> PreTrainedModel:
        return self.policy_model if role == "policy" else self.reference_model


class OneBase(nn.Module):
    """One base model whose adapters make the pair.

    Args:
        model: a PeftModel in eval mode with unmerged LoRA adapters.
        policy_adapter: name of the adapter that makes the policy.
        reference_adapter: name of the adapter that makes the reference; None = the base alone.
    Raises:
        ConfigError: the adapters cannot serve rows of one batch side by side (not LoRA, DoRA, merged).
    """

    model: Any  # a PeftModel; nn.Module's own annotation would make every attribute a tensor

    def __init__(self, model: Any, policy_adapter: str, reference_adapter: str | None = None) -> None:
        super().__init__()
        self.model = model
        self._adapter_of = {"policy": policy_adapter, "reference": reference_adapter or "__base__"}
        self._rows: list[str] | None = None
        self._check_mixable([name for name in (policy_adapter, reference_adapter) if name])
        model.set_adapter(policy_adapter)
        _contiguous_head_input(self.policy)
        self._route()

    @property
    def policy(self) -> PreTrainedModel:
        """The base model with the policy's adapter active."""
        return self.model.get_base_model()

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
        given = {name: value for name, value in inputs.items() if value is not None}
        if len(roles) == 2:
            input_ids = input_ids.repeat(2, 1)
            given = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in given.items()}
            cache = cache.caches[0] if isinstance(cache, PairCache) else cache
        batch = len(input_ids) // len(roles)
        # The policy alone takes PEFT's ordinary path: bit for bit what `--model hf` with `peft=` computes.
        self._rows = None if roles == ("policy",) else [self._adapter_of[role] for role in roles for _ in range(batch)]
        try:
            logits = _run(self.policy, input_ids, cache, logits_to_keep, **given)
        finally:
            self._rows = None
        return list(logits.split(batch))

    def _route(self) -> None:
        """Tell every adapted layer, at each call, which adapter each row of the batch uses.

        PEFT's own ``adapter_names`` argument registers one hook per layer at each forward; these stay in place.
        """
        from peft.tuners.lora import LoraLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        def add_rows(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            return None if self._rows is None else (args, {**kwargs, "adapter_names": self._rows})

        for module in self.model.modules():
            if isinstance(module, (LoraLayer, AuxiliaryTrainingWrapper)):
                module.register_forward_pre_hook(add_rows, with_kwargs=True)

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
