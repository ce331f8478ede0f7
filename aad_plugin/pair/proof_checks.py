"""What a pair's paths are held against, and how: plain readings of a short text, and one check for each way to spare work.

A plain reading is one model read alone by transformers' own forward: one row, no padding, no cache. The bound of a
difference comes from two plain readings of one row in the pair's dtype. Knows nothing of which path is taken when one
fails (`proof.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from aad_plugin.decoding import list_candidates
from aad_plugin.errors import NonFiniteLogits
from aad_plugin.pair.cache_names import host_takes
from aad_plugin.pair.multimodal import MultimodalInputs, without_bans
from aad_plugin.pair.reading import BuildCache, ReadPair, Role

ROLES: tuple[Role, Role] = ("policy", "reference")  # what AAD's steps read; other sides are held besides
_LENGTHS, STEPS, _WINDOW = (9, 5), 2, 6
# Root mean square difference of two rows of logits over their spread, by dtype: what rounding alone can make of two ways
# to compute one row, at least and at most; in between the difference of two plain readings decides.
_ROUNDING = {torch.float64: (1e-12, 1e-6), torch.float32: (1e-5, 1e-4), torch.float16: (1e-2, 5e-2)}
_COARSE = (5e-2, 1.5e-1)
_MIXED = 0.35  # share of the way from one side's logits to the other's; rounding points elsewhere
# Read by pairs with a tokenizer: what a tuning changes shows in sentences, hardly in random tokens.
_SENTENCES = (
    ("How do I keep bread fresh? You can keep it", "The best way to learn a language is to speak"),
    ("Write a short note to a neighbour. Dear friend, thank", "My favourite season is autumn, since the leaves"),
    ("Why is the sky blue? The sky looks blue because", "A lighthouse warns ships at night, so that they"),
)


@dataclass(frozen=True)
class Text:
    """Two rows of different length, left-padded, and what each model alone says to their last positions.

    Attributes:
        ids, mask: (2, P + steps) int64. truth: per role (2, steps + 1, V) float32. bound: of a relative difference.
        multimodal: what the rows show besides. positions: (B, T) or (A, B, T); None to count tokens.
    """

    ids: Tensor
    mask: Tensor
    truth: dict[Role, Tensor]
    bound: float
    differ: bool
    multimodal: MultimodalInputs | None = None
    positions: Tensor | None = None


class Comparison:
    """Logits of one path, compared with the plain ones as they come.

    They may stray no further than rounding explains. In 16 bit rounding can be as large as what an adapter does, but it
    has another direction: all of them together may not lie on the way to the other side's either.
    """

    def __init__(self, text: Text, what: str) -> None:
        self.text, self.what = text, what
        pairs = [(one, other) for one in text.truth for other in text.truth if one != other]
        self._gone = {pair: [0.0, 0.0] for pair in pairs}

    def strays(self, role: Role, logits: Tensor, first: int = 0) -> str | None:
        """Say how (2, K, V) logits differ from the plain ones from position ``first`` on, or None."""
        place = slice(first, first + logits.shape[1])
        own = self.text.truth[role][:, place]
        logits = logits[..., : own.shape[-1]].cpu()
        found = relative(logits, own)
        if not found <= self.text.bound:
            bound = self.text.bound
            return f"{self.what}: the {role}'s logits differ by {found:.2g} of their spread (bound {bound:.2g})"
        gone = _centred(logits) - _centred(own)
        for other in self.text.truth.keys() - {role}:
            way = _centred(self.text.truth[other][:, place]) - _centred(own)
            self._gone[role, other][0] += float((way * gone).sum())
            self._gone[role, other][1] += float(way.pow(2).sum())
        return None

    def mixes(self) -> str | None:
        """Say which side's logits lie on the way to the other's, or None."""
        for (role, other), (gone, way) in self._gone.items():
            share = gone / max(way, 1e-30)
            if self.text.differ and not abs(share) <= _MIXED:
                return f"{self.what}: the {role}'s logits go {share:.0%} of the way to the {other}'s"
        return None


def _centred(logits: Tensor) -> Tensor:
    """Return rows without their mean, float64: a constant along a row decides nothing."""
    return logits.double() - logits.double().mean(-1, keepdim=True)


def relative(logits: Tensor, wanted: Tensor) -> float:
    """Return the largest root mean square difference of two (…, V) rows over their spread; inf for NaN."""
    wanted = wanted.cpu()
    difference = _centred(logits.cpu()) - _centred(wanted)
    found = (difference.pow(2).mean(-1).sqrt() / wanted.double().std(-1).clamp(min=1e-30)).max().item()
    return found if found == found else float("inf")


def compare(rows: Mapping[Role, Tensor], plain: Mapping[Role, Tensor], dtypes: Iterable[torch.dtype]) -> str | None:
    """Say how (B, 1, V) float32 logits of a step differ from those of another reading of the same step, or None."""
    bound = max(_ROUNDING.get(dtype, _COARSE)[1] for dtype in dtypes)
    effects = [relative(one, other) for role, one in plain.items() for name, other in plain.items() if name != role]
    differ = bool(effects) and min(effects) > _ROUNDING[torch.float32][1]
    none = torch.zeros(0)
    seen = Comparison(Text(none, none, dict(plain), bound, differ), "one step")
    return next((said for role, row in rows.items() if (said := seen.strays(role, row))), None) or seen.mixes()


# ------------------------------------------------------------------------------------------------- checks

Check = Callable[[ReadPair, Text], str | None]


def _check_rows(pair: ReadPair, text: Text) -> str | None:
    """All sides over a padded batch, and the reference alone, without a cache."""
    inputs = _inputs(text, 0, text.ids.shape[1])
    for roles in dict.fromkeys((pair.sides.roles, ROLES, ROLES[1:])):
        seen = Comparison(text, f"a padded batch read for {' and '.join(roles)}")
        rows = pair.sides.logits(roles, text.ids, None, STEPS + 1, **inputs)
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
            wrong = text.ids[:, place:].flip(0)
            pair.sides.logits(pair.sides.roles, wrong, cache, wrong.shape[1], **_inputs(text, place, text.ids.shape[1]))
            cache.crop(-wrong.shape[1])
            drafted = False
        ids = text.ids[:, place:end]
        rows = pair.sides.logits(pair.sides.roles, ids, cache, 1, **_inputs(text, place, end))
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
            text.ids, None, STEPS + 1, False, False, **_inputs(text, 0, text.ids.shape[1]),
        )  # fmt: skip
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
    pair.sides.logits_as_needed(lambda logits: False, text.ids[:, :start], cache, 1, **_inputs(text, 0, start))
    after = _inputs(text, start, start + 1)
    rows = pair.sides.logits_as_needed(lambda logits: True, text.ids[:, start:], cache, 1, **after)
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
        (row,) = pair.sides.logits(ROLES[:1], text.ids, None, STEPS + 1, **_inputs(text, 0, text.ids.shape[1]))
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
                truth[role] = _read(model, row, pair.vocab_size, 1)[None]
        cache = _empty_cache(pair, ROLES)
        pair.sides.logits(ROLES, row[:, :start], cache, 1)
        rows = pair.sides.logits(ROLES, row[:, start:], cache, 1)
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
            ids, inputs = text.ids[:, place : place + move], _inputs(text, place, place + move)
            if following < 0:
                ids = ids.flip(0)
            if number == late:
                lazy = pair.shortcuts != "candidates"
                found = pair.sides.plausible(_favourites(pair), ids, cache, 1, lazy, False, **inputs)
                rows: dict[Role, Tensor] = {"policy": found.policy_logits[:, None]}
            else:
                keep = move if place else 1
                rows = dict(zip(ROLES, pair.sides.logits(ROLES, ids, cache, keep, **inputs), strict=True))
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


def _inputs(text: Text, start: int, stop: int) -> dict[str, Any]:
    positions = text.positions if text.positions is not None else (text.mask.cumsum(-1) - 1).clamp(min=0)
    shown = {} if text.multimodal is None or start else {"multimodal": text.multimodal}
    return {"attention_mask": text.mask[:, :stop], "position_ids": positions[..., start:stop], **shown}


# ------------------------------------------------------------------------------------------- plain readings


def make_text(pair: ReadPair, seed: int) -> Text:
    """Return the text of a number, read by each model alone; raises NonFiniteLogits where one gives NaN or inf."""
    device = pair.sides.policy.device
    rows = _rows(pair, seed)
    width = max(map(len, rows))
    ids = torch.tensor([[row[0]] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    truth: dict[Role, Tensor] = {}
    noise = 0.0
    for role in pair.sides.roles:
        with pair.sides.role(role) as model:
            own = [ids[row : row + 1, mask[row].bool()] for row in range(2)]
            alone = [_read(model, row, pair.vocab_size) for row in own]  # two of (steps + 1, V)
            truth[role] = torch.stack(alone)
            if not bool(truth[role].isfinite().all()):
                raise NonFiniteLogits(f"the {role}'s logits hold NaN or inf, read alone by transformers")
            # The same positions once more, in a batch of two that ends a token earlier.
            again = _read(model, own[0][:, :-1].repeat(2, 1), pair.vocab_size, STEPS)
            noise = max(noise, relative(again, alone[0][:-1]))
    return Text(ids, mask, truth, *tolerance(pair, truth, noise))


def tolerance(pair: ReadPair, truth: Mapping[Role, Tensor], noise: float) -> tuple[float, bool]:
    """Return the bound of a relative difference, and whether the sides can be told apart.

    Args:
        truth: role -> logits of that model alone. noise: relative difference of two plain readings.
    """
    dtypes = [model.dtype for model in pair.sides.models().values()]
    least, most = max(_ROUNDING.get(dtype, _COARSE) for dtype in dtypes)
    effect = min(relative(truth["policy"], logits) for role, logits in truth.items() if role != "policy")
    bound = max(least, min(most, max(8 * noise, least)))
    if most < 1e-3:  # small against what tells the sides apart, too
        bound = max(least, min(bound, max(effect / 3, 4 * noise)))
    return bound, effect > 4 * max(noise, 1e-9)


def _rows(pair: ReadPair, seed: int) -> list[list[int]]:
    """Return two rows of token ids, of :data:`_LENGTHS` and the steps: sentences, or without a tokenizer random ids."""
    lengths = [length + STEPS for length in _LENGTHS]
    if pair.tokenizer is not None:
        rows = [pair.tokenizer(text, add_special_tokens=False)["input_ids"] for text in _SENTENCES[seed]]
        rows = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        if all(len(row) == length and max(row) < pair.vocab_size for row, length in zip(rows, lengths, strict=True)):
            return rows
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(pair.vocab_size, (length,), generator=generator).tolist() for length in lengths]


def _read(model: Any, ids: Tensor, vocab_size: int, keep: int = STEPS + 1) -> Tensor:
    """Return (keep, V) float32 logits of the last positions of the first row of (B, T) ids."""
    logits = without_bans(model, model(input_ids=ids.to(model.device), use_cache=False).logits)
    return logits[0, -keep:, :vocab_size].float().cpu()
