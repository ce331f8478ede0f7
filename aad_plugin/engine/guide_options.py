"""From a pair's guides to what ``hf_overrides`` says of them (`aad_plugin.engine.guided`), before an engine starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, first_line
from aad_plugin.pair.guide_loading import cast, check_kind, check_tokenizer
from aad_plugin.pair.reading import Role
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.guides import GuideModel, check_guided
from aad_plugin.sources.known_options import trusting
from aad_plugin.sources.merging import is_plain_lora, merged_checkpoint
from aad_plugin.sources.parts import PairSource


@dataclass(frozen=True)
class EngineGuides:
    """A pair's guides as the composite takes them.

    Attributes:
        overrides: of ``hf_overrides["aad"]``. checkpoints: every folder or id whose weights guide.
    """

    overrides: dict[str, Any]
    checkpoints: list[str]


def check_guides(source: PairSource, settings: DecodingSettings) -> None:
    """Raise ConfigError for guides that no engine holds, or settings that they cannot decode by."""
    for guide in source.guides:
        if guide.is_reward:
            raise ConfigError(
                f"guide={guide.name!r} is asked about each candidate with a cache of its own, for which vLLM's composite "
                "has no place: use --model aad, aad generate or --engine hf, or a guide that is a language model"
            )
    check_guided(settings, len(source.guides), source.is_alone)


def guides_of(
    source: PairSource,
    shares: bool,
    dtype: str,
    tokenizer: str,
    vocab_size: int,
    revisions: Mapping[Role, str | None],
    *,
    trust_remote_code: bool = False,
) -> EngineGuides:
    """Give every model of a pair's guides its place: one that the engine reads anyway, a further side of the shared base,
    or a further checkpoint. Adapters that cannot share a base are merged into checkpoints on first use.

    Args:
        shares: whether the pair's sides share their base. dtype: of merged weights. tokenizer: the policy's.
        vocab_size: number of token ids that the pair shares. revisions: of its two checkpoints, as `cast` takes them.
        trust_remote_code: whether a tokenizer's own code is run.
    Raises:
        ConfigError: a guide that is no language model. VocabMismatch: one with other token ids.
    """
    from transformers import AutoTokenizer

    try:
        own = AutoTokenizer.from_pretrained(tokenizer, revision=revisions.get("policy"), **trusting(trust_remote_code))
    except (ImportError, OSError, ValueError) as e:
        raise ConfigError(f"no tokenizer at {tokenizer!r}: {first_line(e)}") from e
    casting = cast(source, revisions)
    adapters: dict[str, str | None] = {}
    checkpoints: dict[str, list[str | None]] = {}
    base = str(source.base)
    models = {role: GuideModel(path or base, base if path else None) for role, path in casting.adapters.items()}
    for role, model in {**models, **casting.checkpoints}.items():
        check_kind(model)
        check_tokenizer(model.path, model.base or model.path, model.revision, own, vocab_size)
        if shares and role in casting.adapters and (model.base is None or is_plain_lora(Path(model.path).expanduser())):
            adapters[role] = model.path if model.base else None
        elif model.base is not None:
            checkpoints[role] = [str(merged_checkpoint(model.base, model.path, dtype)), None]
        else:
            checkpoints[role] = [model.path, model.revision]
    overrides = {
        "guides": [list(member) for member in casting.members],
        "guide_checkpoints": checkpoints,
        "guide_adapters": adapters,
    }
    named = [path for path in adapters.values() if path is not None]
    return EngineGuides(overrides, [*named, *(str(path) for path, _ in checkpoints.values())])
