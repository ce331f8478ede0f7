"""The role "expo" of a pair in memory: of adapters a mix of strengths, of checkpoints a third model."""

from __future__ import annotations

from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.pair.reading import Mix


def adapter_mix(model: Any, policy: str, reference: str | None, scale: float) -> Mix:
    """Return base + mix = θ_policy + scale · (θ_policy − θ_reference) as adapters with their strengths.

    Args:
        model: a PeftModel. policy, reference: names of its adapters; None = the base alone.
    Raises:
        ConfigError: an adapter is no LoRA, or replaces whole modules, which no strength scales.
    """
    from peft import LoraConfig
    from peft.utils.other import AuxiliaryTrainingWrapper

    config = model.peft_config[policy]
    if not isinstance(config, LoraConfig) or config.use_dora:
        kind = "DoRA" if isinstance(config, LoraConfig) else config.peft_type.value
        raise ConfigError(
            f"expo scales what a LoRA adds, and the adapter is {kind}, which adds nothing in proportion: write one model "
            "with aad pairs save --expo and decode that"
        )
    whole = next((name for name, one in model.named_modules() if isinstance(one, AuxiliaryTrainingWrapper)), None)
    if whole is not None:
        raise ConfigError(
            f"expo scales what an adapter adds, but this one replaces {whole.rpartition('model.')[2]} whole: write one "
            "model with aad pairs save --expo and decode that"
        )
    return ((policy, 1 + scale),) + (((reference, -scale),) if reference and scale else ())
