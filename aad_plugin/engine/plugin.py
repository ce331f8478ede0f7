"""What vLLM's entry point calls in each of its processes: register the composite by name, import nothing heavy."""

from __future__ import annotations

ARCHITECTURE = "AADForCausalLM"


def register() -> None:
    """Make the architecture known to vLLM; called once or more in every process of an engine."""
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"aad_plugin.engine.composite:{ARCHITECTURE}")
