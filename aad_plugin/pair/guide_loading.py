"""From named guides to sides with weights: which of them the pair holds already, which are adapters of its base, which
have to be loaded. Knows nothing of scores (`guides.py`)."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from aad_plugin.errors import ConfigError, VocabMismatch, first_line
from aad_plugin.files.marks import weights_mark
from aad_plugin.pair.guided_sides import WithGuides
from aad_plugin.pair.guides import Guides, TokenGuide
from aad_plugin.pair.reading import Role
from aad_plugin.pair.reward_guide import RewardReader
from aad_plugin.pair.sides import Sides
from aad_plugin.sources.guides import Guide, GuideModel
from aad_plugin.sources.known_options import refuse_pickled_adapter, safetensors_only
from aad_plugin.sources.merging import merged_model
from aad_plugin.sources.parts import PairSource
from aad_plugin.sources.vocabulary import shared_vocab_size
from aad_plugin.sources.whole_weights import load_whole


@dataclass
class Casting:
    """Which model plays which role of the guides.

    Attributes:
        members: per guide (role, role of its reference) or, for a reward model, its role alone.
        adapters: further sides of the pair's own base. checkpoints: models to be loaded.
    """

    members: list[tuple[Role, Role | None]] = field(default_factory=list)
    adapters: dict[Role, str | None] = field(default_factory=dict)
    checkpoints: dict[Role, GuideModel] = field(default_factory=dict)


def cast(source: PairSource, revisions: Mapping[Role, str | None] | None = None) -> Casting:
    """Give every model of a pair's guides a role; one that the pair reads anyway keeps the role it has there.

    Args:
        revisions: of the pair's own two checkpoints on the hub, where they were named: a guide of that name is another.
    """
    found = Casting()
    known: dict[tuple[str, str | None, str | None], Role] = {}
    for role, own in _own(source).items():
        named = (revisions or {}).get(role)
        if named not in (None, "main") and not Path(own.path).expanduser().exists():
            own = replace(own, revision=named)
        known.setdefault(_key(own), role)
    for number, guide in enumerate(source.guides, start=1):
        roles: list[Role | None] = []
        for model, role in ((guide.model, f"guide{number}"), (guide.reference, f"guide{number}_reference")):
            if model is None:
                roles.append(role if guide.is_reward and not roles else None)
                continue
            place = known.setdefault(_key(model), role)
            roles.append(place)
            if place != role:
                continue
            if source.shares_base and model.revision is None and _same(model.base or model.path, source.base):
                found.adapters[role] = model.path if model.base else None
            else:
                found.checkpoints[role] = model
        found.members.append((str(roles[0]), roles[1]))
    return found


@dataclass(frozen=True)
class Cast:
    """A casting with its weights: language models by role, and reward models."""

    casting: Casting
    models: dict[Role, PreTrainedModel]
    readers: dict[Role, RewardReader]

    def join(self, sides: Sides, guides: Sequence[Guide], is_alone: bool) -> tuple[Sides, Guides]:
        """Return a pair's sides with what is not among them yet, and the guides."""
        models = {role: model for role, model in self.models.items() if role not in sides.roles}
        if models or self.readers:
            sides = WithGuides(sides, models, list(self.readers.values()))
        cast = self.casting.members
        members = [self.readers.get(role) or TokenGuide(role, reference) for role, reference in cast]
        accounts = [self._account(guide, one, sides) for guide, one in zip(guides, members, strict=True)]
        return sides, Guides(members, is_alone=is_alone, accounts=accounts)

    def _account(self, guide: Guide, member: TokenGuide | RewardReader, sides: Sides) -> dict[str, Any]:
        """What results say of a guide: names, revisions, and a mark of each model's weights."""
        if isinstance(member, RewardReader):
            return {"guide": guide.name, "kind": "reward", "weights": weights_mark(member.model)}
        roles = {"model": member.role, "reference": member.reference}
        said = guide.account()
        for part, role in roles.items():
            if role is not None:
                said[part] = {**said[part], "side": role, **self._marks(role, sides)}
        return {**said, "kind": "tokens"}

    def _marks(self, role: Role, sides: Sides) -> dict[str, Any]:
        if role in self.models:
            model = self.models[role]
            return {"weights": weights_mark(model), "revision": getattr(model.config, "_commit_hash", None)}
        if (adapter := self.casting.adapters.get(role)) is not None:
            # PEFT names an adapter's tensors after it; the base's are in the pair's own mark.
            return {"weights": weights_mark(sides, only=f".{role}."), "path": adapter}
        return {}  # one of the pair's own models, which the account has by itself


def load_cast(
    source: PairSource, policy: PreTrainedModel, tokenizer: Any, vocab_size: int, *, pickles: bool,
    revisions: Mapping[Role, str | None] | None = None,
) -> Cast:  # fmt: skip
    """Load what of a pair's guides is neither one of its own models nor an adapter of its base.

    Args:
        policy: says dtype and device. pickles: whether weights may be read from pickle files. revisions: see `cast`.
    Raises:
        ConfigError: a model cannot be read, or is of another kind. VocabMismatch: its token ids are others.
    """
    casting = cast(source, revisions)
    models = {role: _load(model, policy, tokenizer, vocab_size, pickles) for role, model in casting.checkpoints.items()}
    for path in filter(None, casting.adapters.values()):
        check_kind(GuideModel(path, source.base))
        check_tokenizer(path, path, None, tokenizer, vocab_size)
    pairs = zip(source.guides, casting.members, strict=True)
    readers = {
        role: _load_reader(one, role, policy, tokenizer, vocab_size) for one, (role, _) in pairs if one.is_reward
    }
    return Cast(casting, models, readers)


def _own(source: PairSource) -> dict[Role, GuideModel]:
    """The pair's own models by role."""
    if not source.shares_base:
        return {"policy": GuideModel(str(source.policy)), "reference": GuideModel(str(source.reference))}
    base = str(source.base)
    reference = GuideModel(source.reference_adapter, base) if source.reference_adapter else GuideModel(base)
    return {"policy": GuideModel(str(source.adapter), base), "reference": reference}


def _key(model: GuideModel) -> tuple[str, str | None, str | None]:
    return _place(model.path), None if model.base is None else _place(model.base), model.revision


def _place(path: str) -> str:
    local = Path(path).expanduser()
    return str(local.resolve()) if local.exists() else path


def _same(one: str, other: str | None) -> bool:
    return other is not None and _place(one) == _place(other)


def _load(
    guide: GuideModel, policy: PreTrainedModel, tokenizer: Any, vocab_size: int, pickles: bool
) -> PreTrainedModel:
    """Return one language model in the policy's dtype and on its device; an adapter is merged into a base of its own."""
    check_kind(guide)
    home = guide.base or guide.path
    check_tokenizer(guide.path, home, guide.revision, tokenizer, vocab_size)
    named: dict[str, Any] = {"dtype": policy.dtype, **({"revision": guide.revision} if guide.revision else {})}
    try:
        options = named if pickles else safetensors_only(home, named)
        load = functools.partial(load_whole, AutoModelForCausalLM, home, **options)
        model = load() if guide.base is None else _merged(load, guide.path, pickles)
        model = model.to(policy.device).eval()
    except ConfigError:
        raise
    except (ImportError, OSError, ValueError, TypeError, RuntimeError, KeyError) as e:
        raise ConfigError(f"cannot load guide {guide.path!r}: {first_line(e)}") from e
    size = model.get_output_embeddings().weight.shape[0]
    if size < vocab_size:
        raise VocabMismatch(f"guide {guide.path!r} has a head of {size} rows, the pair {vocab_size} tokens")
    return model


def _merged(load: Callable[[], PreTrainedModel], path: str, pickles: bool) -> PreTrainedModel:
    if not pickles:
        refuse_pickled_adapter(Path(path).expanduser())
    merged: PreTrainedModel = merged_model(load, path, functools.partial(_check_tensors, path=path))
    return merged


def _check_tensors(adapted: Any, path: str) -> None:
    result = adapted.load_adapter(path, adapter_name="default")
    if result.unexpected_keys:
        raise ConfigError(
            f"{len(result.unexpected_keys)} tensors of adapter {path!r} found no layer of its base (first "
            f"{result.unexpected_keys[0]}): it comes from another class of this model"
        )


def check_kind(guide: GuideModel) -> None:
    """Refuse a sequence classifier where a token model is wanted."""
    if guide.base is not None:
        task = _json(Path(guide.path).expanduser() / "adapter_config.json").get("task_type")
        is_classifier = task == "SEQ_CLS"
    else:
        is_classifier = any("ForSequenceClassification" in name for name in _architectures(guide.path, guide.revision))
    if is_classifier:
        raise ConfigError(
            f"guide {guide.path!r} is a sequence classifier, expected a language model that says a probability for each "
            f"token: pass guide=reward:{guide.path} to have it asked about candidates"
        )


def _load_reader(guide: Guide, role: Role, policy: PreTrainedModel, tokenizer: Any, vocab_size: int) -> RewardReader:
    from aad_plugin.judges.kinds.reward import RewardModel

    spec = guide.name.removeprefix("reward:")
    folder = Path(spec).expanduser()
    task = _json(folder / "adapter_config.json").get("task_type")
    names = _architectures(spec, None) if (folder / "config.json").is_file() else []
    if task == "CAUSAL_LM" or any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        raise ConfigError(
            f"guide={guide.name!r} is a language model, expected a sequence classifier with one score: pass guide={spec} "
            "to let its probabilities guide"
        )
    loaded = RewardModel.load(spec, device=str(policy.device))
    _compare(guide.name, tokenizer, loaded.tokenizer, vocab_size)
    reader = RewardReader(loaded.model, role, guide.name)
    reader.prove(vocab_size)
    return reader


def check_tokenizer(name: str, home: str, revision: str | None, own: Any, vocab_size: int) -> None:
    """Refuse a guide with another token→id map; an adapter without a tokenizer of its own has its base's."""
    if home == name and (Path(name).expanduser() / "adapter_config.json").is_file():
        if not (Path(name).expanduser() / "tokenizer_config.json").is_file():
            return
    elif (Path(name).expanduser() / "tokenizer_config.json").is_file():
        home = name
    try:
        tokenizer = AutoTokenizer.from_pretrained(home, **({"revision": revision} if revision else {}))
    except (ImportError, OSError, ValueError, KeyError) as e:
        raise ConfigError(f"no tokenizer of guide {name!r} at {home!r}: {first_line(e)}") from e
    _compare(name, own, tokenizer, vocab_size)


def _compare(name: str, own: Any, tokenizer: Any, vocab_size: int) -> None:
    try:
        found = shared_vocab_size(own, tokenizer)
    except VocabMismatch as e:
        raise VocabMismatch(
            f"guide {name!r} has other token ids than the policy: a guide may have another size, not another vocabulary; "
            f"take a model of the same family ({first_line(e)})"
        ) from e
    assert found >= vocab_size


def _architectures(path: str, revision: str | None) -> list[str]:
    try:
        config = AutoConfig.from_pretrained(path, **({"revision": revision} if revision else {}))
    except (ImportError, OSError, ValueError, KeyError) as e:
        raise ConfigError(f"cannot read a model at guide {path!r}: {first_line(e)}") from e
    return list(config.architectures or [])


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
