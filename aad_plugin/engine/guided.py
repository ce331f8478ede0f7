"""The guides of an engine: how ``hf_overrides["aad"]`` names them, and who plays which role.

    "guides": [["guide1", "guide1_reference"], ["guide2", null]]       whose log-probability, measured against whose
    "guide_checkpoints": {"guide1": [PATH, REVISION or null], …}        models of their own
    "guide_adapters": {"guide2": PATH or null, …}                       further sides of a shared base; null: the base alone

A role may also be "policy" or "reference", which the engine reads anyway. Loads nothing; knows no vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aad_plugin.errors import ConfigError

_ADAPTERS = {"policy": "adapter", "reference": "reference_adapter"}


def guide_roles(own: Mapping[str, Any]) -> tuple[tuple[str, str | None], ...]:
    """Return per guide its role and the role that it is measured against, if any."""
    return tuple((str(guide), measured) for guide, measured in own.get("guides") or ())


def shared_sides(own: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the sides that share the policy's base, in the order of a token's rows, with their adapters; none where the
    policy is a checkpoint of its own."""
    if not own.get("adapter"):
        return {}
    return {**{side: own.get(name) for side, name in _ADAPTERS.items()}, **(own.get("guide_adapters") or {})}


def further_checkpoints(own: Mapping[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Return path and revision of every checkpoint beside the policy's, by role."""
    found: dict[str, tuple[str, str | None]] = {}
    if own.get("reference"):
        found["reference"] = (own["reference"], own.get("reference_revision"))
    for role, (path, revision) in (own.get("guide_checkpoints") or {}).items():
        found[role] = (path, revision)
    return found


def check_roles(own: Mapping[str, Any]) -> None:
    """Raise ConfigError for guides whose models are not named, or adapters without a base that is shared."""
    if own.get("guide_adapters") and not own.get("adapter"):
        raise ConfigError(
            "guide_adapters of hf_overrides['aad'] share a base with the policy's adapter, which is not named"
        )
    held = {"policy", *shared_sides(own), *further_checkpoints(own)}
    for role in {role for guide in guide_roles(own) for role in guide if role is not None}:
        if role not in held:
            raise ConfigError(
                f"hf_overrides['aad']['guides'] names {role!r}, which is no side of this engine "
                f"({', '.join(sorted(held))}): name its model in guide_checkpoints or guide_adapters"
            )
