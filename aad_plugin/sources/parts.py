"""Which checkpoints and adapters make a pair: names, folders and what they prove.

Owns the reading of a user's ``pair=… | policy=… reference=… | reference=… adapter=… | base=… reference_adapter=…
adapter=…`` and of folders that TRL left on disk. Loads no weights. The reference is never guessed.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aad_plugin.errors import ConfigError, ReferenceUnknown, nearest
from aad_plugin.sources.adapter_base import check_adapter_base, refuse_base_revision
from aad_plugin.sources.adapter_files import tokenizer_beside
from aad_plugin.sources.guides import Guide, GuideModel, read_guides
from aad_plugin.sources.presets import PRESETS

PART_NAMES = ("policy", "reference", "base", "adapter", "reference_adapter")
GUIDE_NAMES = ("guide", "guide_reference")
PAIR_FILE = "config.json"
_FORMS = (
    "pair=<preset | pair folder | TRL output folder>, or policy=…,reference=…, or reference=…,adapter=…, "
    "or base=…,reference_adapter=…,adapter=…"
)


@dataclass(frozen=True)
class PairSource:
    """Where the weights of a pair are.

    Attributes:
        policy, reference: full checkpoints (hub id or folder).
        base: checkpoint under the adapters.
        adapter: LoRA of the policy. reference_adapter: LoRA of the reference, None = the base alone.
        preset: name this came from, if any.
        proof: why the reference is known to be the reference.
        settings: decoding settings stored in a pair folder.
        guides: what rewards tokens besides, with strategy=guided. guide, guide_reference: the same as written.
        is_alone: whether a policy stands without a reference, for guides to steer; ``reference`` is then the policy.
    """

    policy: str | None = None
    reference: str | None = None
    base: str | None = None
    adapter: str | None = None
    reference_adapter: str | None = None
    preset: str | None = None
    proof: str = "given"
    settings: dict[str, Any] = field(default_factory=dict)
    guides: tuple[Guide, ...] = ()
    guide: Any = None
    guide_reference: Any = None
    is_alone: bool = False

    @property
    def shares_base(self) -> bool:
        """Whether one base model serves both sides through adapters."""
        return self.adapter is not None

    @property
    def backbone(self) -> str:
        """The checkpoint that is loaded as the policy's weights."""
        return self.base if self.shares_base else self.policy  # type: ignore[return-value]

    @property
    def tokenizer(self) -> str:
        """`tokenizer_at` the main revision."""
        return self.tokenizer_at(None)

    def tokenizer_at(self, revision: str | None) -> str:
        """Where the policy's tokenizer is: beside its adapter if saved there, else with the backbone.

        Args:
            revision: of an adapter on the hub, which is asked.
        """
        own = tokenizer_beside(self.adapter, revision) if self.adapter else None
        return own or self.backbone

    def parts(self) -> dict[str, str]:
        """Return the named parts, for results and logs."""
        named = {name: getattr(self, name) for name in (*PART_NAMES, *GUIDE_NAMES)}
        if self.is_alone:
            del named["reference"]
        return {name: value for name, value in named.items() if value}

    def arguments(self) -> dict[str, str]:
        """Return the parts in the words that `resolve` takes: a base without an SFT adapter is the reference."""
        named = self.parts()
        if self.shares_base and not self.reference_adapter and "base" in named:
            named["reference"] = named.pop("base")
        return named


def resolve(
    pair: str | None = None,
    pretrained: str | None = None,
    *,
    guide: Any = None,
    guide_reference: Any = None,
    **parts: str | None,
) -> PairSource:
    """Turn a user's words into a :class:`PairSource`.

    Args:
        pair: preset name, pair folder or TRL output folder.
        pretrained: alias of ``policy`` where other parts are given, else of ``pair``.
        guide, guide_reference: see :mod:`aad_plugin.sources.guides`; those of a pair folder where none are given.
        **parts: any of policy, reference, base, adapter, reference_adapter.
    Raises:
        ReferenceUnknown: nothing proves the reference; says what to pass.
        ConfigError: an incomplete or contradictory combination, a missing folder, an unknown preset.
    """
    given = {name: str(value) for name, value in parts.items() if value}
    if pretrained:
        if not given and not pair:
            pair = pretrained
        elif "policy" not in given and not pair:
            given["policy"] = pretrained
    if pair and given:
        raise ConfigError(
            f"pair={pair!r} already names every part, got {', '.join(given)} besides: give one or the other"
        )
    guides = read_guides(guide, guide_reference, _pair_models)
    found = _from_name(str(pair)) if pair else _from_parts(given, bool(guides))
    if not guides:
        return found
    return dataclasses.replace(found, guides=guides, guide=guide, guide_reference=guide_reference)


def _pair_models(name: str) -> tuple[GuideModel, GuideModel] | None:
    """Return policy and reference of a preset or a pair folder, or None for a name that is neither."""
    if name not in PRESETS and _read_json(Path(name).expanduser() / PAIR_FILE).get("model_type") != "aligned_pair":
        return None
    pair = _from_name(name)
    if not pair.shares_base:
        return GuideModel(str(pair.policy)), GuideModel(str(pair.reference))
    base = str(pair.base)
    own = GuideModel(pair.reference_adapter, base) if pair.reference_adapter else GuideModel(base)
    return GuideModel(str(pair.adapter), base), own


def _from_parts(given: dict[str, str], guided: bool = False) -> PairSource:
    names = frozenset(given)
    for name, value in given.items():
        _check_exists(name, value)
    if names == {"policy", "reference"}:
        for name in ("policy", "reference"):
            if _is_adapter(given[name]):
                raise ConfigError(
                    f"{name}={given[name]!r} is a LoRA adapter, expected a full checkpoint: pass "
                    "reference=<base>,adapter=<DPO adapter> or base=…,reference_adapter=…,adapter=…"
                )
        return PairSource(policy=given["policy"], reference=given["reference"])
    for name in ("adapter", "reference_adapter"):
        if name in given and (option := next((o for o in ("base", "reference") if o in given), None)):
            check_adapter_base(given[name], given[option], option)
    if names == {"reference", "adapter"}:
        return PairSource(base=given["reference"], adapter=given["adapter"])
    if names == {"base", "adapter", "reference_adapter"}:
        return PairSource(base=given["base"], adapter=given["adapter"], reference_adapter=given["reference_adapter"])
    if names == {"base", "adapter"}:
        raise ReferenceUnknown(
            "base and adapter do not say what the adapter was tuned from: pass reference=<base>,adapter=… if it was the "
            "base itself, or add reference_adapter=<SFT adapter>"
        )
    if names == {"policy"} and guided:
        alone = given["policy"]
        proof = "none is named: guides steer the policy"
        return PairSource(policy=alone, reference=alone, proof=proof, settings={"strategy": "guided"}, is_alone=True)
    if names == {"policy"}:
        raise ReferenceUnknown(
            f"policy={given['policy']!r} was given without its reference: pass reference=<the SFT checkpoint it was tuned "
            "from>, or pair=<folder> if that folder shows it"
        )
    got = ", ".join(f"{name}=…" for name in sorted(names)) or "nothing"
    raise ConfigError(f"a pair is given as {_FORMS}; got {got}")


def _from_name(name: str) -> PairSource:
    if name in PRESETS:  # a folder that happens to have this name is pair=./<name>
        return _from_preset(name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"pair={name!r} is neither a folder nor a preset{nearest(name, PRESETS)}; presets: {', '.join(PRESETS)}"
        )
    config = _read_json(folder / PAIR_FILE)
    if config.get("model_type") == "aligned_pair":
        return _from_pair_folder(folder, config)
    if _is_adapter(str(folder)):
        return _from_adapter_folder(folder)
    if config:
        return _from_checkpoint_folder(folder)
    raise ConfigError(
        f"pair={name!r} holds neither config.json nor adapter_config.json; expected a pair folder or a TRL output folder"
    )


def _from_preset(name: str) -> PairSource:
    preset = PRESETS[name]
    if preset.embedded:
        from aad_plugin.demo import assets, vision

        if name == vision.PRESET:
            reference, adapter = vision.vision_reference_path(), vision.vision_adapter_path()
            settings = {"alpha": vision.ALPHA}
            return PairSource(base=str(reference), adapter=str(adapter), preset=name, settings=settings)
        return PairSource(
            base=str(assets.base_model_path()), adapter=str(assets.policy_adapter_path(name)), preset=name
        )
    return PairSource(policy=preset.policy, reference=preset.reference, preset=name, proof=preset.about)


def _from_pair_folder(folder: Path, config: dict[str, Any]) -> PairSource:
    settings = config.get("settings", {})
    pointers = dict(config.get("source", {}))
    if preset := pointers.pop("preset", None):
        own: dict[str, Any] = {name: pointers.get(name) for name in GUIDE_NAMES}
        guides = read_guides(own["guide"], own["guide_reference"], _pair_models)
        return dataclasses.replace(_from_name(preset), settings=settings, guides=guides, **own)
    for name in ("adapter", "reference_adapter"):
        if pointers.get(name) and (folder / pointers[name]).is_dir():
            pointers[name] = str(folder / pointers[name])
    guide = {name: pointers.pop(name, None) for name in GUIDE_NAMES}
    known = {name: value for name, value in pointers.items() if name in PART_NAMES and value}
    is_alone = bool(guide["guide"]) and set(known) == {"policy"}
    if is_alone:
        known["reference"] = known["policy"]
    for name, value in known.items():
        _check_exists(f"{name} of pair folder {folder}", value)
    guides = read_guides(guide["guide"], guide["guide_reference"], _pair_models)
    about: dict[str, Any] = {"proof": f"pair folder {folder}", "settings": settings, "is_alone": is_alone}
    source = PairSource(**known, **about, guides=guides, **guide)
    if not source.backbone or not (source.shares_base or source.reference):
        raise ConfigError(f"{folder / PAIR_FILE} names no complete pair (source: {pointers}); save it again")
    return source


def _from_adapter_folder(folder: Path) -> PairSource:
    config = _read_json(folder / "adapter_config.json")
    base = config.get("base_model_name_or_path")
    refuse_base_revision(config, folder)
    if not base:
        raise ReferenceUnknown(
            f"{folder}/adapter_config.json names no base model: pass reference=<base>,adapter={folder}"
        )
    _check_exists(f"base model of {folder}", base)
    if _is_adapter(str(folder / "ref")):
        # TRL copies the adapter it starts from to an adapter called "ref" and saves both.
        proof = f"TRL saved the adapter it started from as {folder}/ref"
        return PairSource(base=base, adapter=str(folder), reference_adapter=str(folder / "ref"), proof=proof)
    version = _trl_dpo_version(folder)
    if version and version >= (1, 0):
        proof = f"TRL {'.'.join(map(str, version))} trained a fresh adapter (no ref/ beside it) on {base}"
        return PairSource(base=base, adapter=str(folder), proof=proof)
    raise ReferenceUnknown(
        f"{folder} is a LoRA adapter on {base}, but nothing in it shows what it was tuned from (no ref/ adapter, no TRL "
        f"model card of a DPO run): pass reference={base},adapter={folder} if training started from the base itself, or "
        f"base={base},reference_adapter=<SFT adapter>,adapter={folder}"
    )


def _from_checkpoint_folder(folder: Path) -> PairSource:
    base = _card_base_model(folder) if _trl_dpo_version(folder) else None
    if not base:
        raise ReferenceUnknown(
            f"{folder} is a full checkpoint and no TRL model card in it names the model DPO started from: pass "
            f"policy={folder},reference=<the SFT checkpoint>"
        )
    return PairSource(policy=str(folder), reference=base, proof=f"model card of {folder}: DPO started from {base}")


def _trl_dpo_version(folder: Path) -> tuple[int, ...] | None:
    """Return the TRL version of a model card that says DPO, else None."""
    text = _card(folder)
    if "This model was trained with DPO" not in text:
        return None
    match = re.search(r"^- TRL: (\d+)\.(\d+)", text, re.MULTILINE)
    return (int(match[1]), int(match[2])) if match else None


def _card_base_model(folder: Path) -> str | None:
    """The one model that a card's YAML head names as its base; None for none, or several."""
    head = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", _card(folder), re.DOTALL)
    try:
        named = (yaml.safe_load(head[1]) or {}).get("base_model") if head else None
    except (yaml.YAMLError, AttributeError):
        return None
    if isinstance(named, list) and len(named) == 1:
        named = named[0]
    return named.strip() or None if isinstance(named, str) else None


def _card(folder: Path) -> str:
    path = folder / "README.md"
    return path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""


def _is_adapter(folder: str) -> bool:
    return (Path(folder).expanduser() / "adapter_config.json").is_file()


def _check_exists(name: str, value: str) -> None:
    """Refuse what looks like a folder but is none; a hub id (``owner/name`` or ``gpt2``) is left to the hub client."""
    path = Path(value).expanduser()
    looks_local = value.startswith((".", "~")) or value.count("/") > 1 or path.is_absolute()
    if looks_local and not path.exists():
        raise ConfigError(f"{name}: no folder {value!r} here; expected a folder or a hub id such as owner/name")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path} is not readable JSON: {e}") from e
    return value if isinstance(value, dict) else {}
