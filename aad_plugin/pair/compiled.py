"""A decoding step as one compiled function: every side, its head and the scores, over static caches.

Compiled are the forwards of one token per row and what the strategy makes of their logits; nothing in them waits for the
device, so that a GPU may record them once and play them again. Around them stays what a host does at a step: naming the
step, counting passes, watching for numbers that are not finite. A graph is proven as it is first used: its first steps are
also read as they stand, and other logits are an error, or the plain step. Knows nothing of prompts, which are read plainly.

    pair.generate(**inputs, cache_implementation="static", compile_config=CompileConfig())
"""

from __future__ import annotations

import logging
import math
import os
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CompileConfig, GenerationConfig
from transformers.cache_utils import Cache

from aad_plugin.decoding import aad_scores_above, eft_scores
from aad_plugin.errors import ConfigError, ProofFailed
from aad_plugin.pair.cache_names import named_cache
from aad_plugin.pair.multimodal import is_multimodal
from aad_plugin.pair.plain_readings import compare
from aad_plugin.pair.reading import Forward, Role
from aad_plugin.pair.sides import Sides
from aad_plugin.settings import DecodingSettings

logger = logging.getLogger(__name__)

# transformers compiles a static cache's steps by itself on these.
_BY_ITSELF = ("cuda", "xpu")
_ADVICE = "leave compile_config out, or pass disable_compile=True"
# Cache lengths are multiples of it, so that answers of other lengths find their graph again.
_ROUND = 128
# A CUDA graph is warmed up, then recorded, then replayed: each of them is held against the plain step.
_PROVEN_STEPS = 3
Found = tuple[Tensor, tuple[Tensor, ...]]  # (B, 1, V) scores and each role's (B, 1, V) logits


def cache_length(tokens: int) -> int:
    """Return how long a static cache of a compiled step is that is to hold so many tokens."""
    return -(-tokens // _ROUND) * _ROUND


def compiles(sides: Sides, config: GenerationConfig, settings: DecodingSettings, is_own: bool) -> bool:
    """Whether a ``generate`` call compiles its steps: it asks for it, or has a static cache where transformers does.

    Args:
        is_own: whether the call reads one token per step into a cache of its own.
    Raises:
        ConfigError: it asks for it beside something that cannot be compiled.
    """
    is_asked = config.compile_config is not None and not config.disable_compile
    if not is_asked and (config.disable_compile or sides.policy.device.type not in _BY_ITSELF):
        return False
    reason = _obstacle(sides, config, settings, is_own)
    if is_asked and reason is not None:
        raise ConfigError(f"compile_config compiles steps of fixed shapes, not {reason}: leave compile_config out")
    return reason is None


def _obstacle(sides: Sides, config: GenerationConfig, settings: DecodingSettings, is_own: bool) -> str | None:
    if config.cache_implementation != "static" or config.use_cache is False:
        given = "use_cache=False" if config.use_cache is False else f"{config.cache_implementation!r}"
        return f"those of another cache than cache_implementation='static' (got {given})"
    if not is_own:
        return "those of drafts, of a cache that was passed in or of a pair without caches"
    if (config.num_beams or 1) > 1:
        return f"those of a search with num_beams={config.num_beams}"
    if settings.strategy == "guided":
        return "those of strategy='guided', whose guides are read by themselves"
    models = sides.models().values()
    if any(is_multimodal(model) for model in models):
        return f"those of {type(sides.policy).__name__}, which sees"
    if len({model.device for model in models}) > 1 or any(getattr(m, "hf_device_map", None) for m in models):
        return "those of a pair spread over several devices"
    if not sides.can_compile:
        return f"those of a pair read as {sides.called!r}"
    return None


@dataclass(frozen=True)
class _Plan:
    """What a graph is made for; another plan is another graph."""

    roles: tuple[Role, ...]
    strategy: str
    batch: int
    length: int
    vocab_size: int
    shortcuts: str
    expo_scale: float


class CompiledStep:
    """Reads one token per row by graphs made for it, one for each shape and strategy.

    Args:
        sides: of the pair. config: how to compile; None for fixed shapes, the whole step in one graph, and CUDA graphs on
            a GPU.
    """

    def __init__(self, sides: Sides, config: CompileConfig | None) -> None:
        self.sides, self.is_asked = sides, config is not None
        # On a CPU there are no graphs to replay.
        mode = None if sides.policy.device.type == "cpu" else "reduce-overhead"
        self._options = (config or CompileConfig(fullgraph=True, dynamic=False, mode=mode)).to_dict()  # type: ignore[arg-type]
        if mode is None and self._options["mode"] == "reduce-overhead":
            self._options["mode"] = None
        if self._options["options"]:
            self._options["mode"] = None  # torch takes one of the two
        self._graphs: dict[_Plan, Callable[..., Found]] = {}
        self._proven: Counter[_Plan] = Counter()
        self._needed = 1 if sides.policy.device.type == "cpu" else _PROVEN_STEPS
        self._numbers: dict[tuple[float, torch.device], Tensor] = {}
        self.is_given_up = False

    def fits(self, cache: Cache | None, input_ids: Tensor) -> bool:
        """Whether a step can be read by a graph: one token per row, and a cache that stays where it is."""
        caches: Any = getattr(cache, "caches", (cache,))
        fixed = cache is not None and all(one.is_compileable for one in caches)
        return not self.is_given_up and fixed and input_ids.shape[1] == 1

    def __call__(
        self,
        settings: DecodingSettings,
        roles: tuple[Role, ...],
        vocab_size: int,
        shortcuts: str,
        cache: Cache,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None,
    ) -> Found | None:
        """Return scores and each role's logits of one step, or None where it could not be compiled.

        Args:
            input_ids: (B, 1) int64. attention_mask: (B, T), 0 for padding. position_ids: (B, 1).
        Raises:
            ProofFailed: the graph gives other logits. ConfigError: the step was to be compiled and cannot be.
        """
        forwards, batch = self.sides.forwards(roles, cache), len(input_ids)
        length = cache.get_max_length()
        plan = _Plan(roles, settings.strategy, batch, length, vocab_size, shortcuts, settings.expo_scale)
        # What is to come counts as there: the cache's own length hides it. (B, T) -> (B, L)
        mask = F.pad(attention_mask, (0, length - attention_mask.shape[1]), value=1)
        given = [(one.model, one.sides, _options(one)) for one in forwards]
        inputs = (given, input_ids, mask, position_ids, settings.strategy, self._number(settings), vocab_size)
        with self.sides.reading(roles, batch):
            try:
                proven = self._proven[plan] >= self._needed or os.environ.get("AAD_PLUGIN_PROOF") == "0"
                found = self._graph(plan)(*inputs) if proven else self._prove(plan, cache, inputs)
            except torch._dynamo.exc.TorchDynamoException as error:
                said = " ".join(str(error).split())[:200]
                self._give_up(ConfigError(f"a step of this pair cannot be compiled ({said}): {_ADVICE}"))
                return None
        self.sides.passes.update(dict.fromkeys(roles, batch))
        return found

    def _graph(self, plan: _Plan) -> Callable[..., Found]:
        if plan not in self._graphs:
            # torch counts recompilations per code object and gives up after a few: each plan has one of its own.
            own = types.FunctionType(_step.__code__.replace(co_name=f"_step_{len(self._graphs)}"), _step.__globals__)
            self._graphs[plan] = torch.compile(own, **self._options)
        torch.compiler.cudagraph_mark_step_begin()
        return self._graphs[plan]

    def _prove(self, plan: _Plan, cache: Cache, inputs: tuple[Any, ...]) -> Found:
        """Read a step by the graph, take it back, and read it as it stands, whose rows the cache keeps."""
        take_back = _take_back(cache)
        rows = {role: row.float().cpu() for role, row in zip(plan.roles, self._graph(plan)(*inputs)[1], strict=True)}
        take_back()
        scores, plain = _step(*inputs)
        dtypes = [model.dtype for model in self.sides.models().values()]
        found = compare(rows, {role: row.float().cpu() for role, row in zip(plan.roles, plain, strict=True)}, dtypes)
        if found is not None:
            self._give_up(ProofFailed(f"a compiled step would change this pair's tokens: {found}; {_ADVICE}"))
        self._proven[plan] += 1
        return scores, plain

    def _give_up(self, error: Exception) -> None:
        if self.is_asked:
            raise error
        logger.warning("%s; decoding goes on without", error)
        self.is_given_up = True

    def _number(self, settings: DecodingSettings) -> Tensor:
        """The strategy's one number where the graph reads it, so that another strength is no other graph."""
        value = {"aad": math.log(settings.alpha), "eft": settings.eft_scale}.get(settings.strategy, 0.0)
        key = value, self.sides.policy.device
        if key not in self._numbers:
            self._numbers[key] = torch.tensor(value, device=key[1])
        return self._numbers[key]


def _step(
    forwards: list[tuple[Any, int, dict[str, Any]]],
    input_ids: Tensor,
    mask: Tensor,
    position_ids: Tensor | None,
    strategy: str,
    number: Tensor,
    vocab_size: int,
) -> Found:
    """Read one token per row with every side and score the next; compiled."""
    rows: list[Tensor] = []
    batch = len(input_ids)
    for model, sides, options in forwards:
        # (B, …) -> (S · B, …)
        ids, own = (value.repeat(sides, 1) for value in (input_ids, mask))
        places = {} if position_ids is None else {"position_ids": position_ids.repeat(sides, 1)}
        logits = model(input_ids=ids, attention_mask=own, use_cache=True, **places, **options).logits
        rows.extend(logits[:, -1:, :vocab_size].split(batch))  # (S · B, 1, V) -> S of (B, 1, V)
    if strategy == "aad":
        scores = aad_scores_above(rows[0], rows[1], number)
    elif strategy == "eft":
        scores = eft_scores(rows[0], rows[1], number)
    else:
        scores = rows[0]
    return scores, tuple(rows)


def _take_back(cache: Cache) -> Callable[[], None]:
    """Return a call that makes a cache forget one token, read after now."""
    if cache.is_croppable:
        return lambda: cache.crop(-1)
    layers = [layer for one in getattr(cache, "caches", (cache,)) for layer in one.layers]
    kept = [{n: v.clone() if isinstance(v, Tensor) else v for n, v in vars(layer).items()} for layer in layers]

    def put_back() -> None:
        for layer, values in zip(layers, kept, strict=True):
            for name, value in values.items():
                if isinstance(value, Tensor):  # in place: a graph has its address
                    getattr(layer, name).copy_(value)
                else:
                    setattr(layer, name, value)

    return put_back


def _options(forward: Forward) -> dict[str, Any]:
    keep = {"logits_to_keep": 1} if forward.model._supports_logits_to_keep() else {}
    return {**named_cache(forward.model, forward.cache), **keep}
