"""Which draft would pay for a pair: tokens per check from traces, and what a check and a guess cost on this machine.

A draft's guess is kept if every guess before it was, so along the pair's own answers a draft's favourite at each position
tells how long its runs are; no draft has to run inside the decoding. Drafts: prompt lookup; the policy, the reference and
ExPO (the adapter scaled up) by their favourites; a cut-down draft.

    python -m experiments.drafts runs/draft/texts.jsonl [runs/draft/out] [--pair demo] [--prompts 30]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from rich.console import Console
from rich.table import Table

from aad_plugin.decoding import plausible_set
from aad_plugin.pair.draft_loading import load_draft
from aad_plugin.pair.model import AlignedPair, load_pair
from aad_plugin.pair.one_base import OneBase
from experiments.draft_texts import ChosenText, agreements, load_texts

GUESSES = (1, 2, 3, 4, 8)
EXPO = (2.0, 3.0, 6.0)
THRESHOLDS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6)
NGRAM = 2
# Per text: is each favourite the pair's choice (None: no guess), and how sure the draft is of it.
Trace = tuple[list[bool | None], list[float]]


def tokens_per_check(traces: Sequence[Trace], guesses: int, threshold: float = 0.0) -> tuple[float, float]:
    """Return tokens chosen and tokens guessed per check, over all texts.

    Each text's first token comes of reading the prompt and counts for nothing, as with a draft that reads beside it.
    """
    chosen = guessed = checks = 0
    for agreed, confidence in traces:
        place = 1
        while place < len(agreed):
            made = kept = 0
            while made < guesses and place + made < len(agreed) - 1:
                if agreed[place + made] is None or confidence[place + made] < threshold:
                    break
                made += 1
                if not agreed[place + made - 1]:
                    break
                kept += 1
            # What would have been guessed after a wrong guess costs as well.
            made = guesses if kept < made and threshold == 0 else made
            step = min(kept + 1, len(agreed) - place)
            chosen, guessed, checks, place = chosen + step, guessed + made, checks + 1, place + step
    return chosen / max(1, checks), guessed / max(1, checks)


def passes_per_token(agreed: Sequence[bool], has_choice: Sequence[bool], guesses: int) -> tuple[float, float]:
    """Return forwards of policy and reference per token where the policy of two checkpoints drafts by its favourites.

    The policy reads on through ``guesses`` steps that have a choice (those without are certain), then the reference reads
    the chunk; what follows the first wrong guess was read for nothing. One guess is the lazy reference.

    Args:
        agreed, has_choice: per step of an answer.
    """
    place = policy = reference = 0
    while place < len(agreed):
        end, open_steps = place, 0
        while end < len(agreed) and open_steps < guesses:
            open_steps += has_choice[end]
            end += 1
        policy, reference = policy + end - place, reference + (open_steps > 0)
        place = next((step + 1 for step in range(place, end) if has_choice[step] and not agreed[step]), end)
    return policy / len(agreed), reference / len(agreed)


def lookup(text: ChosenText) -> Trace:
    """Return what prompt lookup would guess: what followed the last two tokens where they stood before."""
    whole, start, found = text.prompt + text.answer, len(text.prompt), []
    for place in range(start, len(whole)):
        guess = None
        for earlier in range(place - NGRAM):
            if whole[earlier : earlier + NGRAM] == whole[place - NGRAM : place]:
                guess = whole[earlier + NGRAM]
                break
        found.append(None if guess is None else guess == whole[place])
    return found, [1.0] * len(found)


@torch.inference_mode()
def traces_of(read: Any, texts: Sequence[ChosenText], ids: torch.Tensor | None = None) -> list[Trace]:
    """Return a model's traces, one forward per text."""
    found: list[Trace] = []
    for text in texts:
        logits = read(input_ids=torch.tensor([text.prompt + text.answer])).logits[0]
        agreed, confidence = agreements(logits, text, ids)
        found.append((list(agreed), confidence))
    return found


@torch.inference_mode()
def choices_of(pair: AlignedPair, texts: Sequence[ChosenText]) -> list[list[bool]]:
    """Return per step of each answer whether the policy finds more than one token plausible."""
    found = []
    for text in texts:
        with pair.sides.role("policy") as model:
            logits = model(input_ids=torch.tensor([text.prompt + text.answer])).logits[0, :, : pair.vocab_size]
        own = logits[len(text.prompt) - 1 : len(text.prompt) - 1 + len(text.choices)]
        found.append((plausible_set(own, pair.settings.alpha).sum(-1) > 1).tolist())
    return found


@contextlib.contextmanager
def scaled(model: Any, adapter: str, factor: float) -> Iterator[None]:
    """Inside the block an adapter counts ``factor`` times."""
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer) and adapter in layer.scaling]
    for layer in layers:
        layer.scaling[adapter] *= factor
    try:
        yield
    finally:
        for layer in layers:
            layer.scaling[adapter] /= factor


@torch.inference_mode()
def costs(pair: AlignedPair, positions: Sequence[int], rounds: int = 12) -> dict[int, float]:
    """Return ms of a forward of the pair for so many positions after 64 in the cache, by number; medians, in turns."""
    seconds: dict[int, list[float]] = {number: [] for number in positions}
    ids = torch.randint(4, 1000, (1, 64 + max(positions)))
    with pair._call(pair.settings, None) as call:
        call.is_cached = True
        cache = pair.new_cache()
        assert cache is not None
        pair(ids[:, :64], cache=cache, logits_to_keep=1)
        for _ in range(rounds):
            for number in positions:
                started = time.perf_counter()
                pair(ids[:, 64 : 64 + number], cache=cache, logits_to_keep=number)
                seconds[number].append(time.perf_counter() - started)
                cache.crop(-number)  # type: ignore[attr-defined]
    return {number: 1e3 * statistics.median(found[2:]) for number, found in seconds.items()}


@torch.inference_mode()
def cost_of_guess(draft: Any, rounds: int = 30) -> float:
    """Return ms of one guess after 64 tokens."""
    cache, seconds = draft.new_cache(), []
    draft.guess(torch.randint(4, 1000, (1, 64)), cache)
    for number in range(rounds):
        started = time.perf_counter()
        draft.guess(torch.tensor([[100 + number]]), cache)
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds[5:])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="of `python -m experiments.demo_pair.draft texts`")
    parser.add_argument("draft", nargs="?", help="a draft's folder")
    parser.add_argument("--pair", default="demo")
    parser.add_argument("--prompts", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pair = load_pair(options.pair, dtype="float32")
    texts = [text for text in load_texts(options.texts) if text.held_out][: options.prompts]
    drafts = {"prompt lookup": [lookup(text) for text in texts]}
    for role in ("policy", "reference"):
        with pair.sides.role(role) as model:  # type: ignore[arg-type]
            drafts[role] = traces_of(model, texts)
    sides: Any = pair.sides
    for factor in EXPO if isinstance(sides, OneBase) else ():
        with sides.role("policy") as model, scaled(model, sides.adapters["policy"], factor):
            drafts[f"ExPO ×{factor:g}"] = traces_of(model, texts)
    guess = 0.0
    if options.draft:
        draft = load_draft(options.draft, pair.sides, pair.tokenizer, pair.vocab_size)
        drafts["cut-down draft"] = traces_of(draft.model, texts, draft.ids)
        guess = cost_of_guess(draft)
    check = costs(pair, [1, *(number + 1 for number in GUESSES)])
    _print(drafts, check, guess, len(texts))
    _print_two_checkpoints(drafts["policy"], choices_of(pair, texts))
    if options.json:
        record = {"check_ms": check, "guess_ms": guess, "drafts": drafts, "threads": torch.get_num_threads()}
        options.json.write_text(json.dumps(record))


def _print(drafts: dict[str, list[Trace]], check: dict[int, float], guess: float, number: int) -> None:
    console = Console(width=150)
    table = Table(
        title=f"{number} answers: tokens per check by guesses of a check; break-even cost of a guess, in steps"
    )
    for name in ("draft", "agreement", *map(str, GUESSES), "break-even at 2", "at 4"):
        table.add_column(name, justify="left" if name == "draft" else "right")
    for name, traces in drafts.items():
        agreed = [one is True for trace in traces for one in trace[0]]
        found = {guesses: tokens_per_check(traces, guesses)[0] for guesses in GUESSES}
        # tokens per check = (check of guesses + 1) / step + guesses · guess / step, where nothing is won or lost.
        even = {guesses: (found[guesses] - check[guesses + 1] / check[1]) / guesses for guesses in (2, 4)}
        table.add_row(
            name, f"{sum(agreed) / len(agreed):.2f}", *(f"{found[guesses]:.2f}" for guesses in GUESSES),
            *(f"{value:.2f}" for value in even.values()),
        )  # fmt: skip
    console.print(table)
    console.print("a check, ms by positions:", {positions: round(ms, 1) for positions, ms in check.items()})
    if guess:
        console.print(f"a guess of the cut-down draft: {guess:.1f} ms, {guess / check[1]:.2f} of a step")
        best = Table(title="cut-down draft: speed ÷ AAD without, by the model of cost; rows: probability to go on")
        for name in ("threshold", *map(str, GUESSES)):
            best.add_column(name, justify="right")
        for threshold in THRESHOLDS:
            row = []
            for guesses in GUESSES:
                tokens, made = tokens_per_check(drafts["cut-down draft"], guesses, threshold)
                # The guess below the threshold was made as well.
                asked = made if threshold == 0 else min(guesses, made + 1)
                row.append(f"{tokens * check[1] / (_interpolate(check, 1 + made) + asked * guess):.2f}")
            best.add_row(f"{threshold:g}", *row)
        console.print(best)


def _print_two_checkpoints(policy: list[Trace], has_choice: list[list[bool]]) -> None:
    """Of greedy decoding, by count of forwards: 1 a token; the naive loop makes 2."""
    for guesses in GUESSES:
        counts = [
            passes_per_token([bool(a) for a in t[0]], h, guesses) for t, h in zip(policy, has_choice, strict=True)
        ]
        own, other = (statistics.mean(column) for column in zip(*counts, strict=True))
        print(
            f"two checkpoints, policy drafts {guesses}: policy {own:.2f}, reference {other:.2f}: {1 / (own + other):.2f}"
        )


def _interpolate(check: dict[int, float], positions: float) -> float:
    low = max(number for number in check if number <= positions)
    high = min((number for number in check if number >= positions), default=low)
    share = 0.0 if high == low else (positions - low) / (high - low)
    return check[low] + share * (check[high] - check[low])


if __name__ == "__main__":
    main()
