"""How much memory a served pair takes: arithmetic from the two configurations, no weights are read.

weights = parameters × bytes, of both models, or of their base where they share it (the adapters are not counted); KV
cache per token = 2 · layers · KV heads · head size · bytes, of both. A decoding step reads the weights once, so where
bandwidth bounds it two checkpoints run at half a single model's speed, and a shared base at nearly all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GIB = 2**30
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "auto": 2}


@dataclass(frozen=True)
class Part:
    """One model. parameters: number; kv_bytes: per token of context, None where the configuration does not tell."""

    parameters: int
    weight_bytes: int
    kv_bytes: int | None


@dataclass(frozen=True)
class Plan:
    """A pair on ``devices`` equal devices, tensor parallel.

    Attributes:
        shares_base: whether the policy's weights are the reference's, too.
        guides: further models; a guide that is an adapter of a shared base is none.
        weight_gib, kv_mib_per_1k: of all models together. per_device_gib: weights on each device.
        tokens: context tokens whose cache fits beside the weights; None where no device memory was named.
        requests: how many requests of full length that is.
    """

    policy: Part
    reference: Part
    devices: int
    weight_gib: float
    per_device_gib: float
    kv_mib_per_1k: float | None
    tokens: int | None
    requests: float | None
    shares_base: bool = False
    is_alone: bool = False
    guides: tuple[Part, ...] = ()

    def lines(self) -> list[str]:
        """The plan in words."""
        counted = f"policy {self.policy.parameters / 1e9:.2f}, reference {self.reference.parameters / 1e9:.2f}"
        price = "a step reads both models' weights: where bandwidth bounds it, half the policy's tokens per second"
        if self.is_alone:
            counted, price = f"policy {self.policy.parameters / 1e9:.2f}", "a step reads every model's weights"
        if self.shares_base:
            counted = f"one base for both, {self.policy.parameters / 1e9:.2f}"
            price = (
                "a step reads the base's weights once: where bandwidth bounds it, nearly the policy's tokens per second"
            )
        if self.guides:
            counted += f", guides {' + '.join(f'{guide.parameters / 1e9:.2f}' for guide in self.guides)}"
        said = [
            f"weights {self.weight_gib:.1f} GiB ({counted} billion parameters), {self.per_device_gib:.1f} GiB on each of "
            f"{self.devices}",
            "KV cache: unknown, the configuration does not tell"
            if self.kv_mib_per_1k is None
            else f"KV cache {self.kv_mib_per_1k:.1f} MiB per 1,000 tokens of context, all models",
            price,
        ]
        if self.tokens is not None:
            fits = (
                f"{self.tokens:,} tokens of context fit beside the weights, {self.requests:.1f} requests of full length"
            )
            said.append(fits if self.tokens > 0 else "the weights do not fit: more devices or --quantization")
        return said


def part(config: Any, dtype: str) -> Part:
    """Count one model's parameters on the meta device and its cache per token."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    from aad_plugin.sources.memory import cache_bytes_per_token

    with init_empty_weights(include_buffers=True):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    size = _BYTES.get(dtype, 2)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Part(parameters, parameters * size, cache_bytes_per_token(config, size))


def plan(
    policy: Part,
    reference: Part,
    *,
    devices: int = 1,
    device_gib: float | None = None,
    utilisation: float = 0.9,
    context: int = 4096,
    shares_base: bool = False,
    is_alone: bool = False,
    guides: Sequence[Part] = (),
    guide_sides: int = 0,
) -> Plan:
    """Put a pair on devices.

    Args:
        devices: tensor-parallel size. device_gib: memory of each, None leaves out what fits. utilisation: share vLLM may
            use (``--gpu-memory-utilization``). context: tokens of a request of full length.
        shares_base: the weights are held once. is_alone: there is no reference. guides: models of their own.
        guide_sides: guides that are adapters of the pair's base.
    """
    own = [policy] if is_alone else [policy, reference]
    held = [*(own[:1] if shares_base else own), *guides, *([] if shares_base else [policy] * guide_sides)]
    weights = sum(one.weight_bytes for one in held)
    sizes = [one.kv_bytes for one in (*own, *guides, *[policy] * guide_sides)]
    known = [size for size in sizes if size is not None]
    kv = sum(known) if len(known) == len(sizes) else None
    tokens = None
    if device_gib is not None and kv is not None:
        tokens = max(0, int((device_gib * GIB * utilisation * devices - weights) / kv))
    return Plan(
        policy,
        reference,
        devices,
        weights / GIB,
        weights / GIB / devices,
        None if kv is None else kv * 1000 / 2**20,
        tokens,
        None if tokens is None else tokens / context,
        shares_base,
        is_alone,
        tuple(guides),
    )
