"""Preference losses by name: which command of TRL trains each, by which recipe, and whether it knows a reference.

for name in LOSSES: run_trl(LOSSES[name].command, ["--config", str(recipe_path(LOSSES[name].recipe)), …])
"""

from __future__ import annotations

from dataclasses import dataclass

from aad_plugin.errors import ConfigError, nearest


@dataclass(frozen=True)
class Loss:
    """One loss.

    Attributes:
        command: of `run_trl`. recipe: see `recipe_path`. has_reference: False where training never reads the start again;
            the implicit reward then measures against the start all the same, and a table has to say so.
    """

    command: str
    recipe: str
    has_reference: bool = True


LOSSES: dict[str, Loss] = {
    **{name: Loss("dpo", f"loss_{name}") for name in ("sigmoid", "ipo", "hinge", "apo_zero", "robust")},
    "kto": Loss("kto", "loss_kto"),
    "orpo": Loss("orpo", "loss_orpo", has_reference=False),
    "simpo": Loss("simpo", "loss_simpo", has_reference=False),
}


def loss_named(name: str) -> Loss:
    """Return a loss; ConfigError with the nearest name for an unknown one."""
    if name not in LOSSES:
        raise ConfigError(f"no loss {name!r}{nearest(name, LOSSES)}; there are {', '.join(LOSSES)}")
    return LOSSES[name]
