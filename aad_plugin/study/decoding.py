"""Decode one batch of a cell with a loaded pair, and count what it took. Knows models, not files or tables."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList

from aad_plugin.errors import AADError, ConfigError, NonFiniteLogits
from aad_plugin.pair.answering import check_room, encode_prompts
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.sampling import KeyedSampler, prompt_key
from aad_plugin.pair.stopping import answer_lengths, end_ids
from aad_plugin.pair.strategies import decode, draw, implicit_rewards
from aad_plugin.sources.vocabulary import shared_vocab_size
from aad_plugin.sources.whole_weights import load_whole
from aad_plugin.study.cells import Cell, Decoding
from aad_plugin.study.prompts import Prompt, prompt_mark


@dataclass(frozen=True)
class Batch:
    """Prompts decoded together, and the sample numbers of each."""

    decoding: Decoding
    prompts: tuple[Prompt, ...]
    numbers: range

    def keys(self) -> list[tuple[str, str, int]]:
        """Return the keys of its answers, prompt by prompt."""
        return Cell(self.decoding, self.prompts, self.numbers.start, self.numbers.stop).keys()


@dataclass(frozen=True)
class Decoded:
    """What `Rows.add_answers` keeps of a batch."""

    entries: list[dict[str, Any]]
    cost: dict[str, float]


class Decoder:
    """A pair, and the same policy beside a wrong reference, that answer batches.

    Args:
        pair: the pair. wrong: the same policy with another reference, or None.
        max_new_tokens: budget per answer. batch_size: rows of a forward, of one side.
    """

    def __init__(self, pair: AlignedPair, wrong: AlignedPair | None, *, max_new_tokens: int, batch_size: int) -> None:
        self.pairs = {"pair": pair, "wrong": wrong}
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self._lengths: dict[str, int] = {}
        self._ends = end_ids(pair.generation_config.eos_token_id)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise ConfigError where a prompt leaves no room in the context."""
        pair = self._pair("pair")
        for number, prompt in enumerate(prompts):
            ids, _ = encode_prompts(pair, [prompt])
            try:
                check_room(pair, ids.tolist(), self.max_new_tokens)
            except ConfigError as error:
                raise ConfigError(str(error).replace("prompt 1 ", f"prompt {number + 1} of the study ", 1)) from error
            self._lengths[prompt_mark(prompt)] = ids.shape[1]

    def batches(self, cell: Cell) -> Iterator[Batch]:
        """Cut a cell into batches of prompts of like length; after :meth:`check`. The same cell gives the same batches."""
        by_length = sorted(cell.prompts, key=lambda prompt: (-self._lengths[prompt_mark(prompt)], prompt_mark(prompt)))
        beams = cell.decoding.num_beams
        num = cell.stop - cell.first
        together = max(1, self.batch_size // (num * beams))
        for start in range(0, len(by_length), together):
            prompts = tuple(by_length[start : start + together])
            for first in range(cell.first, cell.stop, self.batch_size):
                yield Batch(cell.decoding, prompts, range(first, min(first + self.batch_size, cell.stop)))

    def decode(self, batch: Batch) -> Decoded:
        """Decode; costs are of the whole batch, as `Answer` names them."""
        pair = self._pair(batch.decoding.reference)
        ids, mask = encode_prompts(pair, batch.prompts)
        meter = _Meter(pair)
        implicit: list[list[Any]]
        if batch.decoding.settings.samples:
            drawn = draw(pair, ids, mask, batch.decoding.settings, batch.numbers, max_new_tokens=self.max_new_tokens)
            cost = meter.lap()
            implicit = [_finite(implicit_rewards(pair, mask, one)) for one in drawn]
            read = meter.lap()
            cost |= {"picker_passes": read["reference_passes"], "picker_seconds": read["seconds"],
                     "picker_cpu_seconds": read["cpu_seconds"]}  # fmt: skip
            answers = [(one.tokens, one.lengths) for one in drawn]
        else:
            tokens = decode(pair, ids, mask, batch.decoding.settings, **self._options(batch.decoding, ids, mask))
            cost = meter.lap() | {"picker_passes": 0.0, "picker_seconds": 0.0, "picker_cpu_seconds": 0.0}
            answers = [(tokens, answer_lengths(tokens, ids.shape[1], self._ends))]
            implicit = [[None] * len(ids)]
        entries = [
            {"prompt": prompt_mark(prompt), "number": number}
            | self._entry(pair, tokens[row, ids.shape[1] :][: int(lengths[row])])
            | {"implicit": values[row]}
            for number, (tokens, lengths), values in zip(batch.numbers, answers, implicit, strict=True)
            for row, prompt in enumerate(batch.prompts)
        ]
        return Decoded(entries, cost)

    def _options(self, decoding: Decoding, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens}
        if decoding.num_beams > 1:
            options["num_beams"] = decoding.num_beams
        if decoding.draws:
            keys = [(prompt_key(row[kept.bool()].tolist()), 0) for row, kept in zip(ids, mask, strict=True)]
            noise = {name: getattr(decoding.settings, name) for name in ("temperature", "top_p", "seed")}
            options["logits_processor"] = LogitsProcessorList([KeyedSampler(keys, ids.shape[1], **noise)])
        return options

    def _entry(self, pair: AlignedPair, tokens: Tensor) -> dict[str, Any]:
        ids = tokens.tolist()
        text = pair.tokenizer.decode(ids, skip_special_tokens=True)
        return {"text": text, "tokens": len(ids), "ended": bool(ids) and ids[-1] in self._ends}

    def _pair(self, reference: str) -> AlignedPair:
        pair = self.pairs[reference]
        assert pair is not None, "a cell with the wrong reference needs one"
        return pair


def _finite(rewards: Tensor) -> list[float]:
    if not rewards.isfinite().all():
        raise NonFiniteLogits("the reference gave NaN or ±inf for a sampled answer: its implicit reward is no number")
    return rewards.tolist()


class _Meter:
    """Passes of both sides, wall clock and processor time since the last lap."""

    def __init__(self, pair: AlignedPair) -> None:
        self._passes = pair.sides.passes
        self._seen = self._now()

    def lap(self) -> dict[str, float]:
        """Return what was spent since the last lap, under `Answer`'s names."""
        before, self._seen = self._seen, self._now()
        return {name: value - before[name] for name, value in self._seen.items()}

    def _now(self) -> dict[str, float]:
        # The model of extrapolated weights stands in the policy's place.
        read = {"policy": self._passes["policy"] + self._passes["expo"], "reference": self._passes["reference"]}
        passes = {f"{role}_passes": float(number) for role, number in read.items()}
        return {**passes, "seconds": time.perf_counter(), "cpu_seconds": time.process_time()}


def load_wrong_reference(pair: AlignedPair, path: str) -> AlignedPair:
    """Return the pair's policy beside another reference.

    Args:
        path: checkpoint with the policy's vocabulary, loaded in the policy's dtype; blocks on disk or network.
    Raises:
        ConfigError: nothing to load there. VocabMismatch: its tokens are not the policy's.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        vocab_size = shared_vocab_size(pair.tokenizer, tokenizer)
        reference = load_whole(AutoModelForCausalLM, path, dtype=pair.sides.policy.dtype)
    except (OSError, ValueError) as error:
        if isinstance(error, AADError):
            raise
        reason = str(error).splitlines()[0]
        raise ConfigError(f"cannot load the wrong reference {path!r}: {reason}") from error
    sides = Checkpoints(pair.sides.policy, reference.to(pair.sides.policy.device).eval())
    return AlignedPair(
        sides, vocab_size=vocab_size, settings=pair.settings, tokenizer=pair.tokenizer,
        chat_template_args=pair.chat_template_args,
    )  # fmt: skip
