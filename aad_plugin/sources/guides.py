"""Which models guide a decoding: names, folders and what each is measured against. Loads no weights.

guide=MODEL                      log g of a model with the policy's token ids (an autoregressive reward model)
guide=MODEL guide_reference=M    log g − log g_reference (emulated fine-tuning by a small pair, proxy-tuning)
guide=PRESET                     a pair: its policy, measured against its reference
guide=A+B guide_reference=M+none several, in one order everywhere; a JSON list does as well
guide=reward:MODEL               a sequence reward model, asked about each candidate
guide=owner/name@REVISION        of the hub
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.adapter_base import refuse_base_revision

REWARD = "reward:"
_NONE = "none"


@dataclass(frozen=True)
class GuideModel:
    """One model: ``path`` is a checkpoint, or an adapter on ``base``. revision: on the hub."""

    path: str
    base: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Guide:
    """One guide.

    Attributes:
        name: as it was written. model: None for a reward model, which its name alone tells. reference: what the model is
            measured against, None for its own log-probability. written_reference: as it was written.
    """

    name: str
    model: GuideModel | None
    reference: GuideModel | None = None
    written_reference: str | None = None

    @property
    def is_reward(self) -> bool:
        """Whether a sequence reward model guides."""
        return self.model is None

    def account(self, marks: Callable[[GuideModel], Mapping[str, Any]] = lambda model: {}) -> dict[str, Any]:
        """What a result says of the guide.

        Args:
            marks: what tells a model's weights from others under its name.
        """
        parts = {"model": self.model, "reference": self.reference}
        said = {part: None if one is None else {**dataclasses.asdict(one), **marks(one)} for part, one in parts.items()}
        return {"guide": self.name, **said}


# A pair's name → its policy and its reference, or None where the name is no pair's.
PairModels = Callable[[str], "tuple[GuideModel, GuideModel] | None"]


def read_guides(guide: Any, guide_reference: Any, pair_models: PairModels) -> tuple[Guide, ...]:
    """Turn a user's words into guides.

    Args:
        guide, guide_reference: text, ``A+B``, or a list; None for none. pair_models: knows presets and pair folders.
    Raises:
        ConfigError: a missing folder, a reference without a guide, or not as many references as guides.
    """
    names, references = _listed("guide", guide), _listed("guide_reference", guide_reference)
    if references and not names:
        raise ConfigError(f"guide_reference={guide_reference!r} belongs to a guide: pass guide=… with it")
    if references and len(references) != len(names):
        raise ConfigError(
            f"guide_reference names {len(references)} models for {len(names)} guides: pass one for each guide, in the "
            f"guides' order, with 'none' for a guide that has none (for example {'+'.join(['none'] * len(names))})"
        )
    measured: list[str | None] = [*references] or [None] * len(names)
    pairs = zip(names, measured, strict=True)
    return tuple(_guide(name, reference, pair_models) for name, reference in pairs)


def check_guided(settings: DecodingSettings, num_guides: int, is_alone: bool) -> None:
    """Refuse a strategy without the models that it reads.

    Args:
        num_guides: of the pair. is_alone: whether a policy stands without a reference.
    Raises:
        ConfigError: no guide, weights that do not match the guides, or no reference.
    """
    if settings.strategy == "guided" and not num_guides:
        raise ConfigError("strategy='guided' needs a guide: load the pair with guide=<model, adapter or preset>")
    scale = settings.guide_scale
    if num_guides and isinstance(scale, tuple) and len(scale) != num_guides:
        raise ConfigError(
            f"guide_scale has {len(scale)} weights for {num_guides} guide{'s' if num_guides > 1 else ''}: pass one for "
            "each, in the guides' order, or a single number for all"
        )
    if is_alone and (
        settings.needs_reference or settings.strategy in ("reference", "expo") or _picks_by_reference(settings)
    ):
        raise ConfigError(
            f"strategy={settings.strategy!r} reads a reference, and this policy was given none: pass reference=…, or "
            "strategy=guided"
        )


def _picks_by_reference(settings: DecodingSettings) -> bool:
    return settings.strategy == "best_of_n" and settings.picker == "implicit"


def _listed(option: str, given: Any) -> list[str]:
    """Return the names in ``given``; a name with '+' in it can stand in a list."""
    if given is None or given == "":
        return []
    if isinstance(given, str) and Path(given).expanduser().exists():
        return [given]
    names = given.split("+") if isinstance(given, str) else list(given) if isinstance(given, list | tuple) else [given]
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise ConfigError(f"{option} names a model, or several as A+B, got {given!r}")
    return [name.strip() for name in names]


def _guide(name: str, reference: str | None, pair_models: PairModels) -> Guide:
    if name.startswith(REWARD):
        if name == REWARD:
            raise ConfigError("guide=reward:<model> names no model (a folder, a hub id or demo)")
        if reference not in (None, _NONE):
            raise ConfigError(
                f"guide={name!r} is a reward model, which has no reference: pass guide_reference=none for it"
            )
        return Guide(name, None)
    if (pair := pair_models(name)) is not None:
        model, own = pair
        measured = own if reference is None else _reference(reference, pair_models)
        return Guide(name, model, measured, reference)
    return Guide(name, _model("guide", name), _reference(reference, pair_models), reference)


def _reference(name: str | None, pair_models: PairModels) -> GuideModel | None:
    if name in (None, _NONE):
        return None
    assert name is not None
    if name.startswith(REWARD):
        raise ConfigError(f"guide_reference={name!r}: a reward model is no reference, expected a language model")
    if pair_models(name) is not None:
        raise ConfigError(f"guide_reference={name!r} names a pair, expected one model")
    return _model("guide_reference", name)


def _model(option: str, name: str) -> GuideModel:
    folder = Path(name).expanduser()
    if folder.is_dir():
        adapter = folder / "adapter_config.json"
        return GuideModel(name, _base(adapter)) if adapter.is_file() else GuideModel(name)
    if name.startswith((".", "~", "/")) or name.count("/") > 1:
        raise ConfigError(
            f"{option}: no folder {name!r} here; expected a folder, a preset or a hub id such as owner/name"
        )
    path, _, revision = name.partition("@")
    return GuideModel(path, revision=revision or None)


def _base(config: Path) -> str:
    try:
        content = json.loads(config.read_text(encoding="utf-8-sig"))
        base = content.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as e:
        raise ConfigError(f"{config} is not readable JSON: {e}") from e
    if not base:
        raise ConfigError(
            f"{config} names no base model (base_model_name_or_path): merge the adapter and pass the result"
        )
    refuse_base_revision(content, config.parent)
    return str(base)
