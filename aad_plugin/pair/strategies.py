"""Answer a batch of prompts by any strategy of one loaded pair.

Owns what needs more than one pass over a prompt (sampling with keyed noise, best-of-n and its pickers) and stop
sequences. Token-level strategies go straight to ``AlignedPair.generate``. Knows nothing of lm-eval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from aad_plugin.errors import ConfigError
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.multimodal import MultimodalInputs
from aad_plugin.pair.reading import Role
from aad_plugin.pair.recorder import Reading, TokenRecorder, check_traceable
from aad_plugin.pair.rereading import crossed_columns, decoded_logprobs
from aad_plugin.pair.sampling import KeyedSampler, edits_scores, prompt_key, refuse_other_samplers
from aad_plugin.pair.stopping import BehindThinking, StepTeller, StopSequences, answer_lengths, cut, end_ids
from aad_plugin.settings import TOKEN_SETTINGS, DecodingSettings
from aad_plugin.texts.thinking import opened_by

# Rows of one forward while drawing best_of_n's answers; more rows than this cost memory and gain nothing on one device.
_MAX_ROWS = 64
_SCORED_ROWS = 8

# A picker scores answers: prompts and answers as text, one number each, larger is better.
Picker = Callable[[Sequence[Any], Sequence[str]], Sequence[float]]


def decode(
    pair: AlignedPair,
    input_ids: Tensor,
    attention_mask: Tensor,
    settings: DecodingSettings,
    *,
    multimodal: MultimodalInputs | None = None,
    stop: Sequence[str] = (),
    thinking_end: str | int | None = None,
    sample: int = 0,
    picker: Picker | None = None,
    prompts: Sequence[Any] = (),
    rendered: Sequence[str] = (),
    on_readings: Callable[[list[Reading]], None] | None = None,
    on_step: Callable[[int], None] | None = None,
    **generate_options: Any,
) -> Tensor:
    """Decode one batch.

    Args:
        input_ids, attention_mask: (B, P) int64, left-padded.
        settings: strategy and its parameters.
        multimodal: what the prompts show besides their tokens.
        stop: strings that end a row's answer (kept in the returned tokens). thinking_end: a text, or the id of a token, up
            to which an answer is thinking, which nothing ends but its end token; stop strings count behind it, and what is
            decoded after them is returned, too.
        sample: number of the first sample drawn per prompt, part of the noise's key.
        picker: scores answers for ``best_of_n`` with ``picker=reward:…``; unused otherwise.
        prompts: (B) prompts as the picker wants them. rendered: (B) as the model reads them, by which thinking that they
            open, and an answer never ends, is shown to the picker as such.
        on_readings: is given what was read at each step, one reading per prompt; of best_of_n's answers, the picked one's.
        on_step: is told after each step how many tokens the batch's answers have, for a progress bar.
        **generate_options: for ``generate`` (max_new_tokens or max_length, pad_token_id …).
    Returns:
        (B, P + new) int64, right-padded.
    """
    pair.guides.check(settings)
    if settings.samples and (generate_options.get("num_beams") or 1) > 1:
        raise ConfigError(
            f"strategy={settings.strategy!r} draws answers, num_beams searches for one: leave num_beams out"
        )
    if (generate_options.get("num_return_sequences") or 1) > 1:
        raise ConfigError(
            "one answer per prompt is decoded: leave num_return_sequences out (lm-eval tasks have repeats)"
        )
    if on_readings is not None:
        check_traceable(generate_options)
    if settings.samples and pair.draft is not None:
        raise ConfigError(
            f"strategy={settings.strategy!r} draws its tokens, draft_model guesses those that are certain to follow: leave "
            "draft_model out"
        )
    run = _Run(
        pair, input_ids, attention_mask, settings, list(stop), generate_options, thinking_end=thinking_end,
        rendered=rendered, traced=on_readings is not None, on_step=on_step, multimodal=multimodal,
    )  # fmt: skip
    tokens, origins = _answers(run, sample, picker, prompts)
    if on_readings is not None:
        on_readings(run.readings(origins))
    return tokens


def draw(
    pair: AlignedPair,
    input_ids: Tensor,
    attention_mask: Tensor,
    settings: DecodingSettings,
    numbers: range,
    multimodal: MultimodalInputs | None = None,
    **generate_options: Any,
) -> list[Drawn]:
    """Draw answers of the policy, one per prompt and sample number; ``best_of_n`` picks among numbers 0 to n − 1.

    Args:
        input_ids, attention_mask: (B, P) int64, left-padded.
        settings: temperature, top_p and seed are read. numbers: sample numbers, all drawn in one call.
        **generate_options: as for :func:`decode`.
    """
    rows = zip(input_ids, attention_mask, strict=True)
    keys = [prompt_key(ids[mask.bool()].tolist()) for ids, mask in rows]
    run = _Run(pair, input_ids, attention_mask, settings, [], generate_options, multimodal=multimodal)
    return run.draw(keys, numbers)


def implicit_rewards(
    pair: AlignedPair, attention_mask: Tensor, drawn: Drawn, multimodal: MultimodalInputs | None = None
) -> Tensor:
    """Return (B,) float64 Σ log π_policy − log π_reference over each drawn answer, its end included.

    Only the reference reads the answers again, where the policy's probabilities are known from drawing them: as the policy
    read them then, also where they grow beyond a change of rotary factors.

    Args:
        attention_mask: (B, P) int64 of the prompts.
    """
    tokens, prompt_length = drawn.tokens, attention_mask.shape[1]
    positions = torch.arange(tokens.shape[1] - prompt_length, device=tokens.device)
    answer_mask = positions < drawn.lengths.to(tokens.device)[:, None]
    crosses = multimodal is None and bool(crossed_columns(pair, attention_mask, len(positions)))
    sums = []
    # Pictures belong to the whole batch.
    for rows in _chunks(range(len(tokens)), _SCORED_ROWS if multimodal is None else len(tokens)):
        part = slice(rows.start, rows.stop)
        mask = torch.cat([attention_mask[part], answer_mask[part].to(attention_mask.dtype)], dim=1)
        known = drawn.policy_logprobs
        roles: tuple[Role, ...] = ("policy", "reference") if known is None else ("reference",)
        if crosses:
            with pair.sides.spare(pair.shortcuts):
                *read, reference = decoded_logprobs(pair, roles, tokens[part], attention_mask[part])
        else:
            *read, reference = pair.answer_logprobs(tokens[part], mask, prompt_length, roles, multimodal)
        policy = read[0] if known is None else known[part]
        sums.append(((policy - reference).double() * answer_mask[part]).sum(-1))
    return torch.cat(sums).cpu()


def _answers(run: _Run, sample: int, picker: Picker | None, prompts: Sequence[Any]) -> tuple[Tensor, list[Drawn]]:
    """Return (B, P + new) tokens and, per prompt, the call its answer comes from."""
    settings, num = run.settings, len(run.input_ids)
    if not settings.samples:
        call = run.once()
        return call.tokens, [call] * num
    rows = zip(run.input_ids, run.attention_mask, strict=True)
    keys = [prompt_key(ids[mask.bool()].tolist()) for ids, mask in rows]
    if settings.strategy == "sample":
        (drawn,) = run.draw(keys, range(sample, sample + 1))
        return drawn.tokens, [drawn] * num
    first = sample * settings.n
    at_once = 1 if run.guesses else _MAX_ROWS // num
    groups = [run.draw(keys, numbers) for numbers in _chunks(range(first, first + settings.n), at_once)]
    candidates = [candidate for group in groups for candidate in group]
    winners = _best(run, candidates, picker, prompts)
    width = max(drawn.tokens.shape[1] for drawn in candidates)
    padded = torch.stack([_pad_right(drawn.tokens, width, run.pad_token_id) for drawn in candidates])
    picked = padded[winners.to(padded.device), torch.arange(num, device=padded.device)]
    return picked, [candidates[number] for number in winners.tolist()]


def _best(run: _Run, candidates: Sequence[Drawn], picker: Picker | None, prompts: Sequence[Any]) -> Tensor:
    """Return (B,) int64: which candidate each prompt's answer is; what was drawn twice is read once, the only one never."""
    distinct: list[Drawn] = []
    places = []
    for drawn in candidates:
        place = next((i for i, earlier in enumerate(distinct) if earlier.is_same(drawn)), len(distinct))
        if place == len(distinct):
            distinct.append(drawn)
        places.append(place)
    if len(distinct) == 1:
        return torch.zeros(len(run.input_ids), dtype=torch.long)
    rewards = [run.rewards(drawn, picker, prompts) for drawn in distinct]
    return torch.stack([rewards[place] for place in places]).argmax(0)


@dataclass(frozen=True)
class Drawn:
    """One answer per prompt.

    Attributes:
        tokens: (B, P + new) int64. lengths: (B,) answer tokens, the end included.
        policy_logprobs: (B, new) float32 of the drawn tokens, known from drawing them; empty where nothing was drawn, None
            where they were drawn from edited scores.
        recorder: read the call's steps, where a trace is wanted. rows: (B) this answer's rows of the call.
    """

    tokens: Tensor
    lengths: Tensor
    policy_logprobs: Tensor | None
    recorder: TokenRecorder | None
    rows: Sequence[int]

    def is_same(self, other: Drawn) -> bool:
        """Whether both hold the same answers; what stands behind their ends is padding."""
        widths = (self.tokens.shape[1], other.tokens.shape[1])
        shared = slice(None, min(widths))
        return torch.equal(self.lengths, other.lengths) and torch.equal(self.tokens[:, shared], other.tokens[:, shared])


class _Run:
    """One batch of prompts with everything its decodings share."""

    def __init__(
        self,
        pair: AlignedPair,
        input_ids: Tensor,
        attention_mask: Tensor,
        settings: DecodingSettings,
        stop: list[str],
        options: dict[str, Any],
        *,
        thinking_end: str | int | None = None,
        rendered: Sequence[str] = (),
        traced: bool = False,
        on_step: Callable[[int], None] | None = None,
        multimodal: MultimodalInputs | None = None,
    ) -> None:
        self.on_step, self.rendered = on_step, rendered
        self.multimodal = multimodal
        self.pair = pair
        self.traced = traced
        self.input_ids = input_ids
        self.attention_mask = attention_mask
        self.settings = settings
        self.options = options
        self.prompt_length = input_ids.shape[1]
        self.eos = end_ids(options.get("eos_token_id", pair.generation_config.eos_token_id))
        ends = (
            set(pair.tokenizer.batch_decode([[token] for token in self.eos])) if pair.tokenizer is not None else set()
        )
        # generate() itself stops at end-of-sequence tokens; decoding text for them at every step would be for nothing.
        self.stop = [sequence for sequence in stop if sequence not in ends]
        self.behind: BehindThinking | None = None
        if thinking_end is not None:
            self.behind, self.stop = BehindThinking(thinking_end, self.stop, pair.tokenizer), []

    @property
    def guesses(self) -> bool:
        """Whether the host guesses tokens ahead, which it does for one row at a time."""
        return bool(self.options.get("prompt_lookup_num_tokens") or self.options.get("assistant_model"))

    @property
    def pad_token_id(self) -> int:
        given = self.options.get("pad_token_id", self.pair.generation_config.pad_token_id)
        return given if given is not None else self.eos[0] if self.eos else 0

    def generate(self, strategy: str, copies: int = 1, **extra: Any) -> Tensor:
        """Run ``generate`` on ``copies`` adjacent copies of each prompt."""
        self.stopper = self.recorder = None
        criteria = StoppingCriteriaList()
        if self.stop:
            beams = self.options.get("num_beams") or 1
            self.stopper = StopSequences(self.stop, self.pair.tokenizer, self.prompt_length, rows_move=beams > 1)
            criteria.append(self.stopper)
        if self.on_step is not None:
            criteria.append(StepTeller(self.on_step, self.prompt_length))
        if self.traced:
            self.recorder = TokenRecorder(self.settings.alpha)
            criteria.append(self.recorder)
        parameters = {name: getattr(self.settings, name) for name in TOKEN_SETTINGS}
        return self.pair.generate(
            input_ids=self.input_ids.repeat_interleave(copies, 0),
            attention_mask=self.attention_mask.repeat_interleave(copies, 0),
            strategy=strategy,
            copies=copies,
            recorder=self.recorder,
            stopping_criteria=criteria,
            **({} if self.multimodal is None else {"multimodal": self.multimodal}),
            **parameters,
            **{"pad_token_id": self.pad_token_id, **self.options, **extra},
        )

    def once(self) -> Drawn:
        """Decode every prompt once, token by token."""
        tokens = self.generate(self.settings.strategy)
        lengths = self._lengths(tokens) if self.traced else torch.zeros(0)
        return Drawn(tokens, lengths, torch.zeros(0), self.recorder, range(len(tokens)))

    def readings(self, origins: Sequence[Drawn]) -> list[Reading]:
        """Return what was read at the steps of each prompt's answer, given the call it comes from."""
        found: dict[int, Reading] = {}
        for recorder in {id(call.recorder): call.recorder for call in origins}.values():
            assert recorder is not None
            own = [number for number, call in enumerate(origins) if call.recorder is recorder]
            tokens = torch.stack([origins[number].tokens[number] for number in own])
            lengths = [int(origins[number].lengths[number]) for number in own]
            rows = [origins[number].rows[number] for number in own]
            if self.multimodal is not None and len(own) != len(origins):
                raise ConfigError("a trace of best_of_n reads one prompt with pictures at a time: pass batch_size=1")
            readings = recorder.readings(self.pair, rows, tokens, self.attention_mask[own], lengths, self.multimodal)
            found.update(zip(own, readings, strict=True))
        return [found[number] for number in range(len(origins))]

    def draw(self, keys: list[str], numbers: range) -> list[Drawn]:
        """Draw one answer per prompt for each sample number."""
        s = self.settings
        refuse_other_samplers(s.strategy, self.options)
        rows = [(key, number) for key in keys for number in numbers]
        sampler = KeyedSampler(rows, self.prompt_length, temperature=s.temperature, top_p=s.top_p, seed=s.seed)
        tokens = self.generate("greedy", len(numbers), logits_processor=LogitsProcessorList([sampler]))
        lengths, steps = self._lengths(tokens), range(tokens.shape[1] - self.prompt_length)
        logprobs = torch.stack([sampler.logprobs[step] for step in steps], dim=1)  # (B,) per step -> (B, new)
        calls = []
        for i in range(len(numbers)):
            own = slice(i, None, len(numbers))
            numbers_of = range(len(tokens))[own]
            calls.append(Drawn(tokens[own], lengths[own], logprobs[own], self.recorder, numbers_of))
        return calls

    def rewards(self, drawn: Drawn, picker: Picker | None, prompts: Sequence[Any]) -> Tensor:
        """Return (B,) float64 scores of one answer per prompt."""
        if self.settings.picker == "implicit":
            if edits_scores(self.options):  # what was drawn from is then no probability of the policy
                drawn = replace(drawn, policy_logprobs=None)
            return implicit_rewards(self.pair, self.attention_mask, drawn, self.multimodal)
        if picker is None:
            raise ValueError(f"picker={self.settings.picker!r} needs a scoring function")
        rows = zip(drawn.tokens, drawn.lengths.tolist(), strict=True)
        answers = [row[self.prompt_length :][:length].tolist() for row, length in rows]
        if self.behind is not None:
            texts = [self.behind.shown(answer) for answer in answers]
        else:
            texts = [
                cut(text, self.stop) for text in self.pair.tokenizer.batch_decode(answers, skip_special_tokens=True)
            ]
        if self.rendered:
            whole = self.pair.tokenizer.batch_decode(answers)
            texts = [opened_by(*one) + text for *one, text in zip(self.rendered, whole, texts, strict=True)]
        return torch.tensor(list(picker(prompts, texts)), dtype=torch.float64)

    def _lengths(self, tokens: Tensor) -> Tensor:
        lengths = answer_lengths(tokens, self.prompt_length, self.eos)
        if self.behind is not None:
            rows = zip(tokens[:, self.prompt_length :].tolist(), lengths.tolist(), strict=True)
            return torch.tensor([self.behind.length(row[:most]) or most for row, most in rows])
        return lengths if self.stopper is None else torch.minimum(lengths, self.stopper.lengths)  # type: ignore[arg-type]


def _chunks(numbers: range, size: int) -> list[range]:
    size = max(1, size)
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _pad_right(tokens: Tensor, width: int, value: int) -> Tensor:
    return torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]), value=value)
