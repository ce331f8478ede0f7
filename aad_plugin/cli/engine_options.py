"""Command-line words for a pair on vLLM, shared by `aad serve` and `aad run-batch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aad_plugin.cli.pair_options import NamedPair
from aad_plugin.errors import ConfigError
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.arguments import take_settings, take_source
from aad_plugin.sources.guides import check_guided
from aad_plugin.sources.known_options import trusting
from aad_plugin.sources.parts import PairSource

_SHORT = {"-tp": "--tensor-parallel-size"}


@dataclass(frozen=True)
class AskedPair:
    """What a command line says of the pair; the engine's own options follow it as for `vllm serve`."""

    source: PairSource
    settings: DecodingSettings
    dtype: str
    reference_revision: str | None
    merge_adapters: bool | None

    def engine_dtype(self, extra: Sequence[str]) -> str:
        """Return the engine's dtype: --dtype, else model_args' dtype, else "auto"."""
        return engine_value(extra, "--dtype") or self.dtype

    def engine_options(self, extra: Sequence[str]) -> list[str]:
        """Return the engine's options with the dtype that model_args named."""
        return [*([] if engine_value(extra, "--dtype") or self.dtype == "auto" else ["--dtype", self.dtype]), *extra]

    def proving(self, extra: Sequence[str]) -> dict[str, Any]:
        """Return the pair's parts and the settings of requests that name none, for the self-test."""
        own = ("alpha", "guide_scale") if self.source.guides else ("alpha",)
        revisions = {"revision": engine_value(extra, "--revision"), "reference_revision": self.reference_revision}
        named = {name: revision for name, revision in revisions.items() if revision} | trusting(_trusts(extra))
        return {**self.source.arguments(), **{name: getattr(self.settings, name) for name in own}, **named}

    def prepare(self, extra: Sequence[str]) -> Any:
        """Return the :class:`aad_plugin.engine.options.EnginePair`; merges adapters on first use where they must be."""
        from aad_plugin.engine.options import engine_pair

        return engine_pair(
            self.source, self.settings, dtype=self.engine_dtype(extra), revision=engine_value(extra, "--revision"),
            reference_revision=self.reference_revision, merge_adapters=self.merge_adapters,
            load_format=engine_value(extra, "--load-format"),
            speculative_config=engine_value(extra, "--speculative-config"), trust_remote_code=_trusts(extra),
        )  # fmt: skip


def engine_value(extra: Sequence[str], option: str) -> str | None:
    """Return what follows an option, as a word of its own or after ``=``, in any of vLLM's spellings of its name."""
    for number, word in enumerate(extra):
        name, joined, value = word.partition("=")
        if _spelled(name) == option:
            return value if joined else next(iter(extra[number + 1 : number + 2]), None)
    return None


def _spelled(name: str) -> str:
    """An option by the name that vLLM's help gives it: underscores are dashes there, too."""
    return _SHORT.get(name, name.replace("_", "-") if name.startswith("--") else name)


def _trusts(extra: Sequence[str]) -> bool:
    return "--trust-remote-code" in map(_spelled, extra)


def asked_pair(named: NamedPair, **settings: Any) -> AskedPair:
    """Read the pair's part of a command line.

    Args:
        settings: that the command has options for; None where one was not given.
    Raises:
        ConfigError: an unknown name, a setting out of range, or guides that are missing.
    """
    given = dict(named.arguments)
    source = take_source(given)
    found = take_settings(given, source.settings).override(**settings)
    check_guided(found, len(source.guides), source.is_alone)
    dtype, revision = str(given.pop("dtype", "auto")), given.pop("reference_revision", None)
    asked = AskedPair(source, found, dtype, revision, given.pop("merge_adapters", None))
    if found.strategy == "expo":
        raise ConfigError(
            f"expo is one model and needs no pair on vLLM: aad pairs save … --expo --expo-scale {found.expo_scale:g} "
            "--whole FOLDER writes it, and vllm serve FOLDER serves it"
        )
    if given:
        raise ConfigError(
            f"unknown in --model-args: {', '.join(given)}; options of the engine follow the pair, as for vllm serve "
            "(--max-model-len 4096 …)"
        )
    return asked
