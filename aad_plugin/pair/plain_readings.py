"""What a pair's paths are held against: a short text read by each model alone, and how far logits may stray from that.

A plain reading is one model read alone by transformers' own forward: one row, no padding, no cache. The bound of a
difference comes from two plain readings of one row in the pair's dtype. Knows nothing of the paths (`proof_checks.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from aad_plugin.errors import NonFiniteLogits
from aad_plugin.pair.multimodal import MultimodalInputs, without_bans
from aad_plugin.pair.reading import Role
from aad_plugin.pair.sides import ReadPair
from aad_plugin.pair.step import Step

_LENGTHS, STEPS = (9, 5), 2
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

    def step(self, start: int, stop: int, keep: int, cache: Cache | None = None) -> Step:
        """What reads the positions from ``start`` to ``stop`` behind those in the cache."""
        positions = self.positions if self.positions is not None else (self.mask.cumsum(-1) - 1).clamp(min=0)
        shown = None if start else self.multimodal
        return Step(self.ids[:, start:stop], cache, keep, self.mask[:, :stop], positions[..., start:stop], shown)

    def whole(self, keep: int) -> Step:
        """What reads all of it at once, without a cache."""
        return self.step(0, self.ids.shape[1], keep)


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
            alone = [read_alone(model, row, pair.vocab_size) for row in own]  # two of (steps + 1, V)
            truth[role] = torch.stack(alone)
            if not bool(truth[role].isfinite().all()):
                raise NonFiniteLogits(f"the {role}'s logits hold NaN or inf, read alone by transformers")
            # The same positions once more, in a batch of two that ends a token earlier.
            again = read_alone(model, own[0][:, :-1].repeat(2, 1), pair.vocab_size, STEPS)
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


def read_alone(model: Any, ids: Tensor, vocab_size: int, keep: int = STEPS + 1) -> Tensor:
    """Return (keep, V) float32 logits of the last positions of the first row of (B, T) ids."""
    logits = without_bans(model, model(input_ids=ids.to(model.device), use_cache=False).logits)
    return logits[0, -keep:, :vocab_size].float().cpu()
