"""One running ``generate`` call of a pair: its settings, who reads its steps, and where it stands."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache

from aad_plugin.errors import ConfigError
from aad_plugin.pair import cache_names
from aad_plugin.pair.compiled import CompiledStep
from aad_plugin.pair.distortion import Contrast
from aad_plugin.pair.finite_watch import FiniteWatch
from aad_plugin.pair.recorder import TokenRecorder
from aad_plugin.settings import DecodingSettings

_TRIED = 8  # steps


class Call:
    """Settings, recorder and counts of one call; :class:`AlignedPair` makes it and hands it each step."""

    def __init__(self, settings: DecodingSettings, recorder: TokenRecorder | None) -> None:
        self.settings = settings
        self.recorder = recorder
        self.copies = 1  # adjacent rows with one prompt
        self.watch = FiniteWatch()
        self.contrast = Contrast()
        self.is_cached = False
        self.compiled: CompiledStep | None = None
        self._prompt: int | None = None
        self._forwards = 0
        self._asked = self._closed = 0

    def check(self, cache: Cache | None) -> None:
        """Raise if the cache that was made for this call does not arrive: its steps would read a single token each."""
        if self.is_cached and cache is None:
            raise ConfigError(
                "generate() was given a cache for this pair and calls it without one, so this version of transformers "
                "passes it by a name that aad_plugin does not know; use_cache=False decodes without"
            )

    def spares(self, settings: DecodingSettings) -> bool:
        """Whether a step may leave out what only a recorder would see; with a recorder, too, so that what is explained is
        what is generated. A compiled step reads the same at every token, so nothing may be left for it."""
        return settings.strategy == "aad" and self.compiled is None

    def may_close(self) -> bool:
        """Whether enough of this call's steps had no choice for asking to pay: each spares a forward, asking costs a
        twentieth of one and a wait."""
        return self._asked < _TRIED or self._closed * _TRIED >= self._asked

    def note_open(self, is_open: bool) -> None:
        """Count a step that was asked whether it has a choice."""
        self._asked += 1
        self._closed += not is_open

    def step(self, cache: Cache | None, new: int) -> str:
        """Name the token about to be chosen, counted from 1, for the end of an error; asked after the policy's forward."""
        self._forwards += 1
        if cache is not None and not cache_names.has_attention(cache):
            return f" at step {self._forwards}"
        length = cache.get_seq_length() if cache is not None else new
        if isinstance(length, Tensor):  # a static cache's, which nobody crops; reading it would wait for the device
            return f" at step {self._forwards}"
        if self._prompt is None:
            self._prompt = length
        return f" at step {length - self._prompt + 1}"
