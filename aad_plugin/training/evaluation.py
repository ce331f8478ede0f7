"""What a round's policy says by ordinary (greedy) decoding, and what picker and oracle make of it.

The picker scores held-out prompts and decides when to stop; the oracle scores other prompts, is only reported, and decides
nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.files.run_folder import read_account
from aad_plugin.files.whole import write_text
from aad_plugin.harness.arguments import PairArguments, loading_args
from aad_plugin.harness.asking import check_room, load_model, render
from aad_plugin.harness.whole_batches import answer_in_batches, open_store
from aad_plugin.judges.statistics.intervals import Estimate, mean_with_interval
from aad_plugin.sources.arguments import REFERENCE_OPTIONS
from aad_plugin.sources.known_options import refuse_revisions
from aad_plugin.sources.parts import PairSource
from aad_plugin.texts.prompts import PromptSet
from aad_plugin.texts.thinking import shown_text

# Scores answers: prompts and answers, one number each, larger is better.
Scorer = Callable[[Sequence[Any], Sequence[str]], list[float]]


@dataclass(frozen=True)
class Answers:
    """Greedy answers to one set of prompts with one model's scores of them, in the order of the prompts."""

    texts: list[str]
    scores: list[float]

    @property
    def mean(self) -> float:
        """Mean score."""
        return math.fsum(self.scores) / len(self.scores)

    @property
    def standard_error(self) -> float:
        """Of the mean, over prompts; NaN for one prompt."""
        num = len(self.scores)
        spread = math.fsum((score - self.mean) ** 2 for score in self.scores)
        return math.sqrt(spread / (num - 1) / num) if num > 1 else math.nan

    @property
    def characters(self) -> float:
        """Mean length of an answer."""
        return sum(self.lengths) / len(self.texts)

    @property
    def lengths(self) -> list[int]:
        """Characters of each answer, as its scores are of it: without thinking."""
        return [len(shown_text(text)) for text in self.texts]


@dataclass(frozen=True)
class Evaluation:
    """One policy: ``held_out`` scored by the picker, ``oracle`` by the oracle."""

    held_out: Answers
    oracle: Answers


def check_model_args(model_args: dict[str, Any]) -> None:
    """Raise ConfigError for model_args with which the model that is evaluated would not load, before anything trains."""
    given = dict(model_args)
    PairArguments.parse(given.pop("pair", None), given.pop("pretrained", None), given)
    refuse_revisions(model_args, "a training reads")


def refuse_guided(source: PairSource, what: str) -> None:
    """Raise ConfigError for a policy without its reference, and for guides, which no training reads.

    Args:
        what: the pair is in the training, for the message.
    """
    if source.is_alone:
        raise ConfigError(
            f"{source.policy} without its reference is no {what}: every ratio of the two would be 1; pass --reference"
        )
    if source.guides:
        raise ConfigError(f"--guide is no part of the {what}, which is the policy against its reference: leave it out")


def beside_one_base(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pair's options for a policy trained as an adapter: its reference is what it was trained from, to which the
    options of the pair's own reference (device, dtype …) do not apply."""
    return {name: value for name, value in options.items() if name not in REFERENCE_OPTIONS}


def load_scorer(name: str, start: dict[str, Any]) -> Scorer:
    """Load a picker or an oracle.

    Args:
        name: "reward:<model>", or "implicit": Σ log π_policy − log π_reference of the pair the rounds start from.
        start: that pair's model_args.
    Raises:
        ConfigError: another word, or no such model.
    """
    if name.startswith("reward:") and len(name) > len("reward:"):
        from aad_plugin.judges.kinds import reward

        return reward.load_scorer(name).score_answers
    if name != "implicit":
        raise ConfigError(f"a picker is implicit or reward:<model>, an oracle reward:<model>; got {name!r}")
    from aad_plugin.pair.check import implicit_rewards
    from aad_plugin.pair.model import load_pair

    pair = load_pair(**loading_args(start))
    return lambda prompts, answers: [
        implicit_rewards(pair, list(prompt), [answer])[0] for prompt, answer in zip(prompts, answers, strict=True)
    ]


def evaluate(
    folder: Path,
    model_args: dict[str, Any],
    held_out: PromptSet,
    oracle: PromptSet,
    scorers: tuple[Scorer, Scorer],
    *,
    engine: str,
    batch_size: int,
    max_new_tokens: int,
) -> Evaluation:
    """Answer both sets of prompts greedily and score them; kept in ``evaluation.json``, blocks on the models.

    Args:
        folder: of the round. model_args: the pair. scorers: picker and oracle, see `load_scorer`.
    """
    path = folder / "evaluation.json"
    if there := read_account(path):
        return Evaluation(Answers(**there["held_out"]), Answers(**there["oracle"]))
    sets = {"held-out prompts": held_out, "oracle's prompts": oracle}
    texts = greedy_answers(
        folder, model_args, sets, engine=engine, batch_size=batch_size, max_new_tokens=max_new_tokens
    )
    scored = [
        Answers(mine, scorer(prompts.prompts, mine))
        for prompts, mine, scorer in zip((held_out, oracle), texts, scorers, strict=True)
    ]
    found = Evaluation(*scored)
    write_text(path, json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n")
    return found


def win_rate(new: Answers, old: Answers) -> Estimate:
    """Mean p(new better) over prompts with its 95 % interval; p = sigmoid of the rewards' difference, as in a judge."""
    return mean_with_interval(better(new, old))


def better(new: Answers, old: Answers) -> list[float]:
    """p(new better) for every prompt, in (0, 1)."""
    return [_sigmoid(a - b) for a, b in zip(new.scores, old.scores, strict=True)]


def greedy_answers(
    folder: Path,
    model_args: dict[str, Any],
    sets: Mapping[str, PromptSet],
    *,
    engine: str,
    batch_size: int,
    max_new_tokens: int,
) -> list[list[str]]:
    """Answer sets of prompts by ordinary decoding, kept below ``folder/answers`` as they arrive.

    Args:
        sets: by the name that the bar shows.
    """
    budget = max_new_tokens
    model = load_model(
        engine, {**model_args, "answers_dir": "none", **({"batch_size": batch_size} if engine == "hf" else {})}
    )
    store = open_store(model, folder / "answers")
    gen_kwargs = {"until": [], "do_sample": False, "max_gen_toks": budget, "strategy": "greedy"}
    texts = []
    for label, prompts in sets.items():
        contexts = [render(model, prompt) for prompt in prompts.prompts]
        check_room(model, contexts, budget)
        answers = answer_in_batches(model, contexts, gen_kwargs, store, batch_size=batch_size, label=f"{label}: greedy")
        texts.append([answer.answer.strip() for answer in answers])
    return texts


def _sigmoid(value: float) -> float:
    # The branch keeps exp() from overflowing.
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
