"""MT-Bench: grades from 1 to 10 per turn, or comparisons in both orders per turn.

Source: lm-sys/FastChat, fastchat/llm_judge/show_result.py at 02d4581. A grade that is missing is -1 in upstream's file and
left out; a comparison counts as won only where both orders favour the model, and as tied where they do not agree; a pair of
which one order has no verdict is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Answer, Comparison, Item, Verdict
from aad_plugin.judges.statistics.intervals import mean_with_interval
from aad_plugin.texts.messages import as_messages

_TURNS = 2


@dataclass(frozen=True, slots=True)
class Grade:
    """A grade of one turn: the question's number, the model, turn 1 or 2, the grade (None without one), the words."""

    question: int
    model: str
    turn: int
    grade: float | None
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A comparison of one turn: who won in either order ("model_1", "model_2", "tie" or "error"), and the words."""

    question: int
    model_1: str
    model_2: str
    turn: int
    winners: tuple[str, str]
    replies: tuple[str, str] = ("", "")

    @classmethod
    def of_orders(
        cls, question: int, models: tuple[str, str], turn: int, orders: Sequence[float | None], replies: tuple[str, str]
    ) -> Pair:
        """From p(model 1 better), first where it stood first, then where it stood second."""
        winners = tuple(
            "error" if p is None else "tie" if p == 0.5 else "model_1" if p > 0.5 else "model_2" for p in orders
        )
        one, two = winners if len(winners) == _TURNS else ("error", "error")
        return cls(question, *models, turn, (one, two), replies)


def turns_of(items: Iterable[Item]) -> list[Item]:
    """Both turns of each item as an item of its own, ids "<id>-1" and "<id>-2", each with the prompt's pictures.

    Raises:
        ConfigError: an answer that is not two replies to two user turns.
    """
    found: list[Item] = []
    for item in items:
        prompt = as_messages(item.prompt)
        answers = [item.candidate, item.baseline] if isinstance(item, Comparison) else [item.text]
        users = [number for number, message in enumerate(prompt) if message["role"] == "user"]
        if len(users) != _TURNS or any(isinstance(text, str) or len(text) != _TURNS for text in answers):
            raise ConfigError(
                f"MT-Bench has two user turns and a reply to each; item {item.id} has {len(users)} user turns and answers "
                "of other shapes: pass answers to its 80 questions, e.g. samples of the task aad_mt_bench"
            )
        for turn in range(1, _TURNS + 1):
            shown = prompt if turn == _TURNS else prompt[: users[0] + 1]
            said = [tuple(text[:turn]) if turn > 1 else text[0] for text in answers]
            name = f"{item.id}-{turn}"
            kind = Comparison if len(said) == 2 else Answer
            found.append(kind(name, shown, *said, pictures=item.pictures))
    return found


def by_question(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Verdicts on `turns_of`'s items with their question's prompt: its two turns are one cluster, not two prompts."""
    last = f"-{_TURNS}"
    prompts = {one.id.removesuffix(last): one.prompt for one in verdicts if one.id.endswith(last)}
    return [replace(one, prompt=prompts.get(one.id.rpartition("-")[0], one.prompt)) for one in verdicts]


def graded_scores(grades: Sequence[Grade]) -> dict[str, dict[str, Any]]:
    """Model -> first_turn, second_turn and average: the mean grade (NaN without any) and how many there are.

    The average is that of all grades, as upstream's; it is not the mean of the two turns where some are missing.
    """
    found: dict[str, dict[str, Any]] = {}
    for model in sorted({one.model for one in grades}):
        own = [one for one in grades if one.model == model and one.grade is not None]
        parts = {"first_turn": (1,), "second_turn": (2,), "average": (1, 2)}
        found[model] = {}
        for name, turns in parts.items():
            values = [one.grade for one in own if one.turn in turns]
            found[model][name] = float(np.mean(np.array(values, dtype=float))) if values else float("nan")
            found[model][f"n_{name}"] = len(values)
    return found


def paired_scores(pairs: Sequence[Pair]) -> dict[str, dict[str, Any]]:
    """Model -> counts win, loss, tie; win_rate, loss_rate, win_rate_adjusted (a tie is one half) with ci95 by question."""
    counted = [pair for pair in pairs if "error" not in pair.winners]
    found: dict[str, dict[str, Any]] = {}
    for model in sorted({name for pair in counted for name in (pair.model_1, pair.model_2)}):
        own = [pair for pair in counted if model in (pair.model_1, pair.model_2)]
        points = [_points(pair, model) for pair in own]
        estimate = mean_with_interval(points, [pair.question for pair in own])
        win, loss, tie = (points.count(value) for value in (1.0, 0.0, 0.5))
        found[model] = {
            "win": win, "loss": loss, "tie": tie, "win_rate": win / len(points), "loss_rate": loss / len(points),
            "win_rate_adjusted": estimate.value, "ci95": [estimate.low, estimate.high],
        }  # fmt: skip
    return found


def _points(pair: Pair, model: str) -> float:
    one, two = pair.winners
    if one == "tie" or one != two:
        return 0.5
    return float((one == "model_1") == (model == pair.model_1))


def grade_row(grade: Grade, judge: str, template: str) -> dict[str, Any]:
    """A line of upstream's ``model_judgment/<judge>_single.jsonl``."""
    return {
        "question_id": grade.question, "model": grade.model, "judge": [judge, template], "user_prompt": "",
        "judgment": grade.reply, "score": -1 if grade.grade is None else grade.grade, "turn": grade.turn, "tstamp": 0.0,
    }  # fmt: skip


def pair_row(pair: Pair, judge: str, template: str) -> dict[str, Any]:
    """A line of upstream's ``model_judgment/<judge>_pair.jsonl``."""
    return {
        "question_id": pair.question, "model_1": pair.model_1, "model_2": pair.model_2, "g1_winner": pair.winners[0],
        "g2_winner": pair.winners[1], "judge": [judge, template], "g1_user_prompt": "", "g1_judgment": pair.replies[0],
        "g2_user_prompt": "", "g2_judgment": pair.replies[1], "turn": pair.turn, "tstamp": 0.0,
    }  # fmt: skip
