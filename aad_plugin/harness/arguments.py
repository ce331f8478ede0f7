"""model_args of ``--model aad``: which go to the pair, which to decoding, which on to lm-eval's HFLM."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lm_eval.models.huggingface import HFLM

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.harness.neutral_options import telling
from aad_plugin.pair.loading import load_parts
from aad_plugin.pair.model import AlignedPair
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.arguments import (
    OWN,
    PER_MODEL,
    REFERENCE_OPTIONS,
    TEMPLATE_OPTIONS,
    take_per_model,
    take_settings,
    take_source,
    typed,
)
from aad_plugin.sources.guides import check_guided
from aad_plugin.sources.known_options import FROM_PRETRAINED, check_shortcuts, refuse_unknown
from aad_plugin.sources.parts import PairSource

LOGLIKELIHOODS = ("policy", "reference", "implicit_reward", "expo")
_OWN = (*OWN, *REFERENCE_OPTIONS, "loglikelihood", "answers_dir", "draft_model", "trace")


@dataclass
class PairArguments:
    """Parsed model_args.

    Attributes:
        source: the pair's parts; None for a pair that was loaded by the caller.
        settings: decoding defaults of the model.
        loglikelihood: whose probabilities score choices.
        reference_options: revision, dtype, gguf_file, trust_remote_code of the reference where they differ.
        reference_device: where the reference goes, or None.
        answers_dir: where answers are kept as they arrive; None is the default folder, "none" keeps nothing.
        shortcuts: see :class:`AlignedPair`.
        draft_model: a small model that guesses the next tokens, or None; of a loaded pair, its own.
        trace: folder for what was read at every token of every answer; None traces nothing.
        hflm: everything that lm-eval's HFLM takes.
        telling: every given model_arg that can change an answer, as it was written; belongs to the key of answers.
    """

    source: PairSource | None
    settings: DecodingSettings
    loglikelihood: str
    reference_options: dict[str, Any] = field(default_factory=dict)
    reference_device: str | None = None
    answers_dir: str | None = None
    shortcuts: str = "auto"
    draft_model: str | None = None
    trace: str | None = None
    hflm: dict[str, Any] = field(default_factory=dict)
    telling: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, pair: str | None, pretrained: str | None, model_args: Mapping[str, Any]) -> PairArguments:
        """Sort a user's model_args.

        Raises:
            ConfigError, ReferenceUnknown: see :func:`aad_plugin.sources.parts.resolve` and the settings.
        """
        rest = dict(model_args)
        if "peft" in rest:
            raise ConfigError("peft=… is how `--model hf` takes an adapter; a pair takes reference=…,adapter=…")
        if rest.get("delta"):
            raise ConfigError(
                "delta=… adds to the weights of one model, and a pair has two: write the sum as a checkpoint and name it "
                "by policy=…"
            )
        # HFLM says so after it has read the weights.
        if rest.get("enable_thinking") and rest.get("think_end_token") is None:
            raise ConfigError(
                "enable_thinking=true needs think_end_token (for example think_end_token=</think>), behind which an answer "
                "begins"
            )
        rest["pretrained"] = pretrained
        source = take_source(rest, pair)
        settings, loglikelihood = _decoding(rest, source.settings)
        check_guided(settings, len(source.guides), source.is_alone)
        _check_choosing(loglikelihood, source.is_alone)
        options = take_per_model(rest, prefix="reference_")
        for given in (rest, options):
            typed({name: given[name] for name in ("dtype",) if name in given})  # refuse a misspelt one here
        device = options.pop("device", None)
        answers_dir, trace = rest.pop("answers_dir", None), _folder(rest.pop("trace", None))
        shortcuts = check_shortcuts(rest.pop("shortcuts", "auto"))
        if source.shares_base and (options or device):
            named = ", ".join(f"reference_{name}" for name in [*options, *(["device"] if device else [])])
            raise ConfigError(
                f"policy and reference share one base model, so {named} has no meaning here: leave it out"
            )
        draft = rest.pop("draft_model", None)
        if draft is not None:
            _check_drafted(rest.get("batch_size", 1), trace)
        kept = {"answers_dir": answers_dir, "shortcuts": shortcuts, "draft_model": draft, "trace": trace}
        return cls(source, settings, loglikelihood, options, device, **kept, hflm=rest, telling=telling(model_args))

    @classmethod
    def for_loaded(cls, pair: AlignedPair, model_args: Mapping[str, Any]) -> PairArguments:
        """Arguments around a pair in memory; decoding settings given here override the pair's own."""
        rest = dict(model_args)
        settings, loglikelihood = _decoding(rest, {}, pair.settings)
        kept = {"answers_dir": rest.pop("answers_dir", None), "trace": _folder(rest.pop("trace", None))}
        shortcuts = check_shortcuts(rest.pop("shortcuts", pair.shortcuts))
        _check_choosing(loglikelihood, pair.guides.is_alone)
        check_guided(settings, len(pair.guides.members), pair.guides.is_alone)
        if pair.chat_template_args:
            rest["chat_template_args"] = {**pair.chat_template_args, **(rest.get("chat_template_args") or {})}
        return cls(
            pair.source, settings, loglikelihood, shortcuts=shortcuts, **kept, hflm=rest, telling=telling(model_args)
        )

    def check_unknown(self, config: Any, hosts: Sequence[type] = (HFLM,)) -> None:
        """Raise ConfigError for a name that neither lm-eval's class, nor from_pretrained, nor the model's configuration
        knows.

        Args:
            hosts: lm-eval's classes whose arguments are known.
        """
        known = [name for host in hosts for name in inspect.signature(host.__init__).parameters]  # type: ignore[misc]
        # A pair's own names are listed for the suggestion; parse() has taken them out of `hflm` already.
        refuse_unknown(self.hflm, [*_OWN, *(name for name in known if name not in ("self", "kwargs"))], config)


def _check_choosing(loglikelihood: str, is_alone: bool) -> None:
    """Raise ConfigError for choices that a policy without a reference cannot score."""
    if is_alone and loglikelihood != "policy":
        raise ConfigError(
            f"loglikelihood={loglikelihood!r} reads a reference, and this policy was given none: pass reference=…, or "
            "loglikelihood=policy"
        )


def loading_args(model_args: Mapping[str, Any], hosts: Sequence[type] = (HFLM,)) -> dict[str, Any]:
    """Return of ``--model aad``'s model_args what a pair is loaded by: those left out are read by lm-eval's classes alone.

    Args:
        hosts: those classes.
    """
    own = {*inspect.signature(load_parts).parameters, *REFERENCE_OPTIONS, *OWN, *PER_MODEL, *TEMPLATE_OPTIONS}
    named = {name for host in hosts for name in inspect.signature(host.__init__).parameters}  # type: ignore[misc]
    hflm = {*named, "gpus"} - own - FROM_PRETRAINED
    left_out = {*hflm, "answers_dir", "trace", "loglikelihood"}
    return {name: value for name, value in model_args.items() if name not in left_out}


def _check_drafted(batch_size: Any, trace: str | None) -> None:
    if str(batch_size) != "1":
        raise ConfigError(
            f"draft_model guesses for one prompt at a time, got batch_size={batch_size}: pass batch_size=1, or leave "
            "draft_model out"
        )
    if trace is not None:
        raise ConfigError(
            "a trace shows one token at a time, draft_model reads several at once: leave one of them out (in float32 "
            "the tokens are the same)"
        )


def _folder(trace: Any) -> str | None:
    """The folder of traces; lm-eval reads ``trace=`` and ``trace=none`` as nothing, ``trace=true`` names none."""
    if trace is None or (isinstance(trace, str) and trace.lower() in ("", "none")):
        return None
    if not isinstance(trace, str):
        raise ConfigError(f"trace is the folder where traces go, got {trace!r} (for example trace=runs/trace)")
    return trace


def _decoding(
    rest: dict[str, Any], stored: Mapping[str, Any], base: DecodingSettings | None = None
) -> tuple[DecodingSettings, str]:
    settings = take_settings(rest, stored, base)
    loglikelihood = rest.pop("loglikelihood", "expo" if settings.strategy == "expo" else "policy")
    if loglikelihood not in LOGLIKELIHOODS:
        raise ConfigError(
            f"loglikelihood must be one of {', '.join(LOGLIKELIHOODS)}, got {loglikelihood!r}"
            + nearest(str(loglikelihood), LOGLIKELIHOODS)
        )
    return settings, loglikelihood
