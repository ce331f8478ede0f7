"""From prompts to preference pairs: AAD's answers against the policy's own. The function behind ``aad synthesize``.

A folder belongs to one pair, one set of prompts and one way of decoding; run again after any interruption it goes on
where it stopped and ends with the same pairs. Filters may change: they are applied to the kept answers.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.files.run_folder import read_account, refuse_other_run
from aad_plugin.files.whole import write_text
from aad_plugin.harness.answer_store import Stored
from aad_plugin.harness.asking import (
    check_engine,
    check_room,
    identity,
    load_model,
    render,
    scorer_weights,
    too_long,
    whose_context,
)
from aad_plugin.harness.whole_batches import answer_in_batches, open_store
from aad_plugin.settings import DecodingSettings
from aad_plugin.synthesis.dataset import DATASET, JSONL, write_dataset
from aad_plugin.synthesis.filters import Candidate, Limits, sift
from aad_plugin.texts.prompts import PromptSet
from aad_plugin.texts.rendering import chat_template_of

logger = logging.getLogger(__name__)

ACCOUNT = "synthesis.json"
REJECTED = ("sample", "greedy")
_FILTERS = ("min_tokens", "keep_truncated", "margin_judge", "min_margin")


@dataclass(frozen=True)
class Recipe:
    """How pairs are made.

    Args:
        rejected: "sample" (nucleus, the paper's) or "greedy", of the policy.
        settings: alpha, temperature, top_p, seed; None values are the pair's own.
        max_new_tokens: budget per answer. limits: which pairs stay.
        margin_judge: "reward:<model>" for the margin filter, or None.
        skip_long: leave out prompts that do not fit into the context, instead of refusing the run.
    """

    rejected: str = "sample"
    settings: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 256
    limits: Limits = field(default_factory=Limits)
    margin_judge: str | None = None
    skip_long: bool = False

    def __post_init__(self) -> None:
        if self.rejected not in REJECTED:
            raise ConfigError(f"--rejected must be {' or '.join(REJECTED)}, got {self.rejected!r}")
        if self.max_new_tokens < 1:
            raise ConfigError(f"--max-new-tokens must be at least 1, got {self.max_new_tokens}")
        if self.margin_judge is not None and not self.margin_judge.startswith("reward:"):
            raise ConfigError(f"--margin-judge must be reward:<model>, got {self.margin_judge!r}")
        DecodingSettings().override(**self.settings)  # a typo is refused before any weight is loaded

    @property
    def given(self) -> dict[str, Any]:
        """The settings that were given."""
        return {name: value for name, value in self.settings.items() if value is not None}

    def gen_kwargs(self, strategy: str) -> dict[str, Any]:
        """One request's gen_kwargs."""
        fixed = {"until": [], "do_sample": False, "max_gen_toks": self.max_new_tokens}
        own = {name: value for name, value in self.given.items() if name in ("alpha", "temperature", "top_p", "seed")}
        return {**fixed, **own, "strategy": strategy}


@dataclass(frozen=True)
class Synthesized:
    """What a run has written. dropped: pairs left out, by filter."""

    jsonl: Path
    dataset: Path
    kept: int
    dropped: dict[str, int]
    account: dict[str, Any]


def synthesize(
    folder: Path,
    prompts: PromptSet,
    recipe: Recipe,
    *,
    model_args: dict[str, Any],
    engine: str = "hf",
    batch_size: int = 8,
) -> Synthesized:
    """Answer every prompt twice, filter, and write the pairs; blocks on the model.

    Args:
        folder: for pairs, card, account and kept answers. prompts: from `read_prompts`.
        model_args: the pair and its options, as for ``--model aad``. engine: "hf" or "vllm".
        batch_size: prompts decoded together on "hf".
    Raises:
        ConfigError: the folder holds another run; a prompt is too long; no pair is left after the filters.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, got {batch_size}")
    engine = check_engine(engine)
    if prompts.shows_pictures and recipe.margin_judge is not None:
        raise ConfigError(
            "the prompts show pictures, which a reward model of text does not see: leave out --margin-judge"
        )
    asked = _asked(prompts, recipe, model_args, engine)
    path = folder / ACCOUNT
    there = read_account(path)
    # Of a run that failed before its first answer nothing is left to protect.
    if there.get("complete") or any(folder.glob("answers/*/*.jsonl")):
        before = dict(there.get("asked") or {})
        refuse_other_run(
            folder, {"asked": _decoding(before)}, {"asked": _decoding(asked)}, {"asked": "pairs made otherwise"}
        )
        if there.get("complete"):
            if before == json.loads(json.dumps(asked, default=str)):
                return _read(folder, there)
            logger.warning("other filters than before: they are applied to the kept answers, nothing is decoded again")
    else:
        write_text(path, json.dumps({"asked": asked, "complete": False}, indent=2) + "\n")
    candidates, described = _candidates(folder, prompts, recipe, model_args, engine, batch_size)
    kept, dropped = sift(_with_scores(candidates, recipe), recipe.limits)
    if not kept:
        counts = ", ".join(f"{name} {count}" for name, count in dropped.items() if count)
        raise ConfigError(
            f"no pair is left of {len(candidates)} prompts after the filters ({counts}); the answers are kept in "
            f"{folder / 'answers'}: the same command with a milder filter decodes nothing again; or raise "
            "--max-new-tokens in another --output"
        )
    account = {"asked": asked, "complete": True, "prompts": len(prompts), "repeated": prompts.repeated,
               "kept": len(kept), "dropped": dropped, "lengths": _lengths(kept),
               "pictures": prompts.shows_pictures, **described}  # fmt: skip
    write_dataset(folder, kept, account)
    write_text(path, json.dumps(account, indent=2, default=str, ensure_ascii=False) + "\n")
    return _read(folder, account)


def _asked(prompts: PromptSet, recipe: Recipe, model_args: dict[str, Any], engine: str) -> dict[str, Any]:
    """What decides the pairs."""
    return {
        "model_args": identity(model_args),
        "engine": engine,
        "prompts": prompts.place,
        "digest": prompts.digest,
        "rejected": recipe.rejected,
        "settings": recipe.given,
        "max_new_tokens": recipe.max_new_tokens,
        "min_tokens": recipe.limits.min_tokens,
        "keep_truncated": recipe.limits.keep_truncated,
        "margin_judge": recipe.margin_judge,
        "min_margin": recipe.limits.min_margin,
        **({"skip_long": True} if recipe.skip_long else {}),
        **scorer_weights(recipe.margin_judge),
    }


def _decoding(asked: dict[str, Any]) -> dict[str, Any]:
    """What decides the answers, of what decides the pairs."""
    return {name: value for name, value in asked.items() if name not in _FILTERS}


def _read(folder: Path, account: dict[str, Any]) -> Synthesized:
    return Synthesized(folder / JSONL, folder / DATASET, account["kept"], account["dropped"], account)


def _candidates(
    folder: Path, prompts: PromptSet, recipe: Recipe, model_args: dict[str, Any], engine: str, batch_size: int
) -> tuple[list[Candidate], dict[str, Any]]:
    """Both answers to every prompt, and the account of what answered."""
    arguments = {**model_args, "answers_dir": "none", **({"batch_size": batch_size} if engine == "hf" else {})}
    model = load_model(engine, arguments, sees=prompts.shows_pictures)
    if not chat_template_of(model):
        raise ConfigError(
            "this pair's tokenizer has no chat template, which the conversational preference format needs: save one with "
            "the policy's tokenizer"
        )
    asked = list(prompts.prompts)
    contexts = [_rendered(model, prompt, number) for number, prompt in enumerate(asked, start=1)]
    skipped = {row for row, _ in too_long(model, contexts, recipe.max_new_tokens)} if recipe.skip_long else set()
    if skipped:
        logger.warning("%d of %d prompts do not fit into %s: left out", len(skipped), len(asked), whose_context(model))
    asked = [prompt for row, prompt in enumerate(asked) if row not in skipped]
    contexts = [context for row, context in enumerate(contexts) if row not in skipped]
    if not asked:
        raise ConfigError(f"none of the prompts fits into {whose_context(model)}: lower --max-new-tokens")
    check_room(model, contexts, recipe.max_new_tokens, skip="--skip-long")
    store = open_store(model, folder / "answers")
    # vLLM fills its batches itself; a batch here is what a kill can cost.
    size = batch_size if engine == "hf" else 256
    answers: dict[str, list[Stored]] = {}
    for side, strategy in (("chosen", "aad"), ("rejected", recipe.rejected)):
        answers[side] = answer_in_batches(
            model, contexts, recipe.gen_kwargs(strategy), store, batch_size=size, label=f"{side}: {strategy}"
        )
    # What a training renders must be what was answered, system turns included.
    asked = [model.settled_turns(prompt) for prompt in asked]
    candidates = [
        _candidate(model, prompt, chosen, rejected)
        for prompt, chosen, rejected in zip(asked, answers["chosen"], answers["rejected"], strict=True)
    ]
    own = model.settings.override(**recipe.given)
    decoding = {
        side: own.override(strategy=strategy).relevant()
        for side, strategy in (("chosen", "aad"), ("rejected", recipe.rejected))
    }
    account = {name: value for name, value in model.model_account().items() if name not in ("settings",)}
    return candidates, {"decoding": decoding, "model": account, "skipped_long": len(skipped)}


def _rendered(model: Any, prompt: list[dict[str, Any]], number: int) -> str:
    try:
        return render(model, prompt)
    except ConfigError as error:
        raise ConfigError(f"prompt {number}: {error}") from error


def _candidate(model: Any, prompt: list[dict[str, Any]], chosen: Stored, rejected: Stored) -> Candidate:
    tokens = [len(model.tok_encode(answer.answer, add_special_tokens=False)) for answer in (chosen, rejected)]
    return Candidate(
        prompt,
        chosen.answer.strip(),
        rejected.answer.strip(),
        (tokens[0], tokens[1]),
        (chosen.truncated, rejected.truncated),
    )


def _with_scores(candidates: Sequence[Candidate], recipe: Recipe) -> list[Candidate]:
    """The same with rewards, where a margin is asked."""
    if recipe.margin_judge is None:
        return list(candidates)
    from dataclasses import replace

    from aad_plugin.judges.kinds.reward import load_scorer

    model, prompts = load_scorer(recipe.margin_judge), [c.prompt for c in candidates]
    chosen = model.score_answers(prompts, [c.chosen for c in candidates])
    rejected = model.score_answers(prompts, [c.rejected for c in candidates])
    return [replace(c, scores=(a, b)) for c, a, b in zip(candidates, chosen, rejected, strict=True)]


def _lengths(kept: Sequence[Candidate]) -> dict[str, float]:
    longer = [(c.tokens[0] > c.tokens[1]) + 0.5 * (c.tokens[0] == c.tokens[1]) for c in kept]
    return {
        "chosen_tokens": math.fsum(c.tokens[0] for c in kept) / len(kept),
        "rejected_tokens": math.fsum(c.tokens[1] for c in kept) / len(kept),
        "longer_chosen": math.fsum(longer) / len(kept),
    }
