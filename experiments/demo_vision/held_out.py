"""Held-out figures: greedy answers about pictures that nothing was trained on, with the right picture and another one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aad_plugin.tasks.vision.demo.scenes import description_values, first_words, read_description
from experiments.demo_vision.drawing import scene
from experiments.demo_vision.questions import Question, count, description, probe, single
from experiments.demo_vision.sft import chat

SEEDS = range(900_000, 900_100)
_ROWS = 25  # prompts in a batch


def held_out(seeds: range = SEEDS) -> list[tuple[int, Question]]:
    """Return questions by seed: of each picture a description, a count, two probes, and one after a single thing."""
    found = []
    for seed in seeds:
        one, rng = scene(seed), random.Random(f"held out {seed}")
        others = single(one, rng)
        asked = [description(one, rng), count(one, rng), probe(one, rng, "present")]
        asked += [probe(one, rng, rng.choice(("random", "adversarial"))), *rng.sample(others, min(1, len(others)))]
        found += [(seed, question) for question in asked]
    return found


def figures(model: Any, processor: Any, seeds: range = SEEDS) -> dict[str, dict[str, float]]:
    """Return shares of right answers (of descriptions the mean f1) by kind, with the ``right`` and a ``shuffled`` picture.

    ``accuracy`` is that of all questions but descriptions. The shuffled picture is that of the next seed.
    """
    asked = held_out(seeds)
    pictures = {seed: scene(seed).image() for seed in seeds}
    shifted = dict(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
    found = {}
    for name, shown in (("right", {seed: seed for seed in seeds}), ("shuffled", shifted)):
        answers = greedy(model, processor, [(pictures[shown[seed]], question) for seed, question in asked])
        found[name] = _shares([question for _, question in asked], answers)
    found["difference"] = {kind: round(value - found["shuffled"][kind], 4) for kind, value in found["right"].items()}
    return found


def _shares(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    by_kind: dict[str, list[float]] = {}
    for question, answer in zip(questions, answers, strict=True):
        if question.kind == "description":
            value = float(description_values(answer, read_description(question.answer))["f1"] or 0)
            by_kind.setdefault("description_f1", []).append(value)
            continue
        right = float(first_words(answer) == question.answer)
        for kind in ("accuracy", question.kind):
            by_kind.setdefault(kind, []).append(right)
    return {kind: round(sum(values) / len(values), 4) for kind, values in sorted(by_kind.items())}


@torch.no_grad()
def greedy(model: Any, processor: Any, asked: Sequence[tuple[Any, Question]]) -> list[str]:
    """Return greedy answers to questions about Pillow pictures, in their order."""
    answers = [""] * len(asked)
    for long in (False, True):
        places = [i for i, (_, question) in enumerate(asked) if (question.kind == "description") == long]
        for start in range(0, len(places), _ROWS):
            rows = places[start : start + _ROWS]
            texts = [processor.apply_chat_template(chat(asked[i][1], None), tokenize=False) for i in rows]
            batch = processor(text=texts, images=[[asked[i][0]] for i in rows], padding=True, return_tensors="pt")
            ids = model.generate(**batch, do_sample=False, max_new_tokens=40 if long else 4)
            new = processor.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            for i, text in zip(rows, new, strict=True):
                answers[i] = text
    return answers


def by_strategy(reference: Path, adapter: Path, alphas: Sequence[float], seeds: range) -> dict[str, Any]:
    """Return the shares of right answers with the right picture: the policy's greedy, and AAD at each alpha."""
    from aad_plugin.pair.answering import answer
    from aad_plugin.pair.model import load_pair

    pair = load_pair(reference=str(reference), adapter=str(adapter), dtype="float32")
    asked = held_out(seeds)
    questions = [question for _, question in asked]
    pictures = {seed: scene(seed).image() for seed in seeds}
    prompts = []
    for seed, question in asked:
        turn = [{"type": "image", "image": pictures[seed]}, {"type": "text", "text": question.text}]
        prompts.append([{"role": "user", "content": turn}])

    def shares(strategy: str, **settings: Any) -> dict[str, float]:
        texts = answer(pair, prompts, strategy=strategy, max_new_tokens=40, batch_size=_ROWS, **settings)
        return _shares(questions, texts)

    return {"greedy": shares("greedy"), **{f"aad, alpha {alpha:g}": shares("aad", alpha=alpha) for alpha in alphas}}


def measure(reference: Path, adapter: Path | None, seeds: range = SEEDS) -> dict[str, Any]:
    """Return the `figures` of the reference, and of the policy where there is one, in float32."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(reference)
    model = AutoModelForImageTextToText.from_pretrained(reference, dtype=torch.float32).eval()
    found: dict[str, Any] = {"reference": figures(model, processor, seeds)}
    if adapter is not None:
        from peft import PeftModel

        found["policy"] = figures(PeftModel.from_pretrained(model, adapter).eval(), processor, seeds)
    return {"pictures": len(seeds), "questions": len(held_out(seeds)), **found}
