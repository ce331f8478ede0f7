"""One check for each way to spare work: it says where a pair's logits stray from plain readings of a short text.

Knows nothing of which path is taken when one fails (`proof.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from aad_plugin.decoding import list_candidates
from aad_plugin.pair.cache_names import host_takes
from aad_plugin.pair.plain_readings import STEPS, Comparison, Text, read_alone, relative
from aad_plugin.pair.reading import BuildCache, Role
from aad_plugin.pair.sides import ReadPair
from aad_plugin.pair.step import Step

ROLES: tuple[Role, Role] = ("policy", "reference")  # what AAD's steps read; other sides are held besides
_WINDOW = 6  # tokens


Check = Callable[[ReadPair, Text], str | None]


def _check_rows(pair: ReadPair, text: Text) -> str | None:
    """All sides over a padded batch, and the reference alone, without a cache."""
    for roles in dict.fromkeys((pair.sides.roles, ROLES, ROLES[1:])):
        seen = Comparison(text, f"a padded batch read for {' and '.join(roles)}")
        rows = pair.sides.logits(roles, text.whole(STEPS + 1))
        for role, row in zip(roles, rows, strict=True):
            if said := seen.strays(role, row):
                return said
        if said := seen.mixes():
            return said
    return None


def _check_cache(pair: ReadPair, text: Text) -> str | None:
    """The prompt, then token by token, by the way that the pair's shortcuts take."""
    said = _walk(pair, text, _empty_cache(pair, ROLES), [1] * STEPS, "a cache")
    return said or (_check_all_cached(pair, text) if pair.is_cached and pair.sides.roles != ROLES else None)


def _check_all_cached(
    pair: ReadPair,
    text: Text,
    build: BuildCache | None = None,
    drafted: bool = False,
    what: str = "a cache of all sides",
) -> str | None:
    """The same for more than two sides, which no step of AAD reads together.

    Args:
        build: a cache for one model; default: a dynamic one. drafted: wrong tokens are read and taken back first.
    """
    cache = pair.sides.new_cache(pair.sides.roles, build) if build else _empty_cache(pair, pair.sides.roles)
    if cache is not None and drafted:
        cache.activate_past_recording()
    place, seen = 0, Comparison(text, what)
    for end in range(text.ids.shape[1] - STEPS, text.ids.shape[1] + 1):
        if cache is not None and drafted and place:
            guessed = text.ids.shape[1] - place
            pair.sides.logits(pair.sides.roles, _wrong(text.step(place, text.ids.shape[1], guessed, cache)))
            cache.crop(-guessed)
            drafted = False
        rows = pair.sides.logits(pair.sides.roles, text.step(place, end, 1, cache))
        for role, row in zip(pair.sides.roles, rows, strict=True):
            if said := seen.strays(role, row, end - text.ids.shape[1] + STEPS):
                return said
        place = end
    return seen.mixes()


def _check_candidates(pair: ReadPair, text: Text) -> str | None:
    """The reference's logits of the plausible tokens alone."""
    if pair.shortcuts == "none":
        return None
    with _shortcuts(pair):
        found = pair.sides.plausible(
            lambda logits: list_candidates(logits[:, : pair.vocab_size], pair.settings.alpha),
            text.whole(STEPS + 1),
            lazy=False,
        )
    candidates = found.candidates
    for role, values in (("policy", found.policy_values), ("reference", found.reference_values)):
        if values is None:
            continue
        wanted = text.truth[role].flatten(0, 1)  # type: ignore[index]
        own = wanted[candidates.rows.cpu(), candidates.tokens.cpu()]
        # One constant may be added to a row; a difference counts in the spread of a whole row.
        apart = (values.double().cpu() - own) / wanted.std(-1)[candidates.rows.cpu()]
        rows = [apart[candidates.rows.cpu() == row] for row in range(len(wanted))]
        worst = max((float((row - row.mean()).abs().max()) for row in rows if len(row)), default=0.0)
        # A single value strays further than the root mean square over a vocabulary.
        if not worst <= 8 * text.bound:
            return (
                f"candidates alone: the {role}'s differ by {worst:.2g} of a row's spread (bound {8 * text.bound:.2g})"
            )
    return None


def _check_late(pair: ReadPair, text: Text) -> str | None:
    """A reference that puts the prompt off and catches up, whole rows."""
    if pair.shortcuts == "none" or not pair.sides.can_wait or not pair.is_cached:
        return None
    cache = _empty_cache(pair, ROLES)
    start, seen = text.ids.shape[1] - 1, Comparison(text, "a late reference")
    pair.sides.logits_as_needed(lambda logits: False, text.step(0, start, 1, cache))
    rows = pair.sides.logits_as_needed(lambda logits: True, text.step(start, start + 1, 1, cache))
    for role, row in zip(ROLES, rows, strict=True):
        if said := seen.strays(role, row, STEPS):
            return said
    return seen.mixes()


def _check_alone(pair: ReadPair, text: Text) -> str | None:
    """The policy alone, by merged weights where it has some."""
    if pair.shortcuts == "none" or not pair.sides.can_merge:
        return None
    seen = Comparison(text, "merged weights")
    with _shortcuts(pair):
        (row,) = pair.sides.logits(ROLES[:1], text.whole(STEPS + 1))
    return seen.strays("policy", row) or seen.mixes()


def _check_window(pair: ReadPair, text: Text) -> str | None:
    """A cache that forgets what lies before a window, of a model that is to do so, too.

    Real windows are longer than any short text, so they are made short for this reading. Kernels that were told their
    window when they were built do not see that, and are not asked.
    """
    if text.multimodal is not None:
        return None
    configs = [model.config.get_text_config() for model in pair.sides.models().values()]
    plain = all(config._attn_implementation in ("eager", "sdpa") for config in configs)
    cache = _empty_cache(pair, ROLES) if plain else None
    if cache is None or not any(any(own.is_sliding) for own in getattr(cache, "caches", [cache])):
        return None
    start = text.ids.shape[1] - STEPS
    row = text.ids[:1]  # the longer one, which has no padding
    with _short_windows(configs):
        truth = {}
        for role in ROLES:
            with pair.sides.role(role) as model:
                truth[role] = read_alone(model, row, pair.vocab_size, 1)[None]
        cache = _empty_cache(pair, ROLES)
        pair.sides.logits(ROLES, Step(row[:, :start], cache, 1))
        rows = pair.sides.logits(ROLES, Step(row[:, start:], cache, 1))
    for role, logits in zip(ROLES, rows, strict=True):
        found = relative(logits[..., : pair.vocab_size], truth[role])
        if not found <= text.bound:
            return f"a cache with a window: the {role}'s logits differ by {found:.2g} of their spread"
    return None


@contextlib.contextmanager
def _short_windows(configs: list[Any]) -> Iterator[None]:
    before = [getattr(config, "sliding_window", None) for config in configs]
    try:
        for config, window in zip(configs, before, strict=True):
            if isinstance(window, int):
                config.sliding_window = min(window, _WINDOW)
        yield
    finally:
        for config, window in zip(configs, before, strict=True):
            if isinstance(window, int):
                config.sliding_window = window


CHECKS: dict[str, Check] = {
    "rows": _check_rows,
    "cache": _check_cache,
    "window": _check_window,
    "candidates": _check_candidates,
    "late": _check_late,
    "alone": _check_alone,
}


def _check_static(pair: ReadPair, text: Text) -> str | None:
    from transformers import StaticCache

    def build(model: Any) -> Any:
        return StaticCache(config=model.config.get_text_config(), max_cache_len=text.ids.shape[1] + 4)

    said = _walk(pair, text, pair.sides.new_cache(ROLES, build), [1] * STEPS, "a static cache")
    return said or (None if pair.sides.roles == ROLES else _check_all_cached(pair, text, build, what="static caches"))


def _check_drafts(pair: ReadPair, text: Text) -> str | None:
    """Two wrong tokens read at once and taken back, then the right ones: what a rejected draft does to a cache."""
    cache = _empty_cache(pair, ROLES)
    if cache is not None:
        cache.activate_past_recording()
    said = _walk(pair, text, cache, [STEPS, -STEPS, *[1] * STEPS], "drafted tokens")
    if said or pair.sides.roles == ROLES:
        return said
    return _check_all_cached(pair, text, drafted=True, what="drafted tokens of all sides")


USES: dict[str, Check] = {"static cache": _check_static, "drafts": _check_drafts}


def _walk(pair: ReadPair, text: Text, cache: Any, moves: list[int], what: str) -> str | None:
    """Read the prompt, then ``moves``; say where logits differ from plain ones. A move is a number of tokens to read, or,
    negative, of tokens to take back; what will be taken back are other tokens than the text's.

    The first single token is read by the way of a step that needs no reference, so that a reference that reads late has to
    catch up with several tokens after those that its cache holds.
    """
    if cache is None:
        return f"{what}: the models give none" if pair.is_cached else None
    if not host_takes(cache):
        return f"{what}: this transformers asks it for its length, which a recurrent model's has not"
    start = text.ids.shape[1] - STEPS
    place, seen = 0, Comparison(text, what)
    late = moves.index(1) + 1 if pair.shortcuts != "none" else None
    with _shortcuts(pair):
        for number, (move, following) in enumerate(zip([start, *moves], [*moves, 0], strict=True)):
            if move < 0:
                cache.crop(move)
                place += move
                continue
            step = text.step(place, place + move, move if place else 1, cache)
            if following < 0:
                step = _wrong(step)
            if number == late:
                found = pair.sides.plausible(_favourites(pair), step, lazy=pair.shortcuts != "candidates")
                rows: dict[Role, Tensor] = {"policy": found.policy_logits[:, None]}
            else:
                rows = dict(zip(ROLES, pair.sides.logits(ROLES, step), strict=True))
            place += move
            for role, row in rows.items() if following >= 0 else ():
                found_first = place - row.shape[1] - start + 1
                if said := seen.strays(role, row, found_first):
                    return said
    return seen.mixes()


def _empty_cache(pair: ReadPair, roles: Sequence[Role]) -> Any:
    """Return a dynamic cache for these sides, whatever the pair's own strategy reads; None for a pair without."""
    if not pair.is_cached:
        return None
    return pair.sides.new_cache(roles, lambda model: DynamicCache(config=model.config))


def _favourites(pair: ReadPair) -> Callable[[Tensor], Any]:
    return lambda logits: list_candidates(logits[:, : pair.vocab_size], 1.0)


def _shortcuts(pair: ReadPair) -> contextlib.AbstractContextManager[None]:
    return pair.sides.spare(pair.shortcuts)


def _wrong(step: Step) -> Step:
    """The step with each row's tokens in the other row: guesses that will be taken back."""
    return replace(step, input_ids=step.input_ids.flip(0))
