"""Reward models, and the judge made of one: a sequence-classification model with one output, or a PEFT adapter for it.

`RewardModel` scores (prompt, answer) pairs; p(candidate better) = sigmoid(score of candidate - score of baseline), the
Bradley-Terry model they are trained with. A reward model sees one answer at a time, so there is no order to swap.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.files.marks import WEIGHTS
from aad_plugin.judges.items import Question, Ruling
from aad_plugin.judges.kinds.local_models import (
    LocalJudge,
    check_model_options,
    hub_mark,
    made_ready,
    model_mark,
    outputs_of,
    weight_options,
)
from aad_plugin.judges.kinds.spelling import Piece, Speller
from aad_plugin.judges.sitting.sitting import Sitting
from aad_plugin.sources.attached import attached
from aad_plugin.sources.known_options import refuse_pickled_adapter
from aad_plugin.sources.whole_weights import load_whole
from aad_plugin.texts.messages import Messages, Reply, conversation, digest
from aad_plugin.texts.thinking import shown_text

_QUESTIONS_AT_ONCE = 32


class RewardModel:
    """A sequence-classification model with one output and its tokenizer. Build it with `load`."""

    def __init__(self, model: Any, tokenizer: Any, name: str):
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.speller = Speller(tokenizer)
        self._known: dict[str, float] = {}  # text's hash -> score; one answer meets several rivals

    @classmethod
    def load(
        cls, spec: str, device: str | None = None, dtype: str = "auto", use_safetensors: bool | None = None
    ) -> RewardModel:
        """Load a reward model; blocks on disk, and on the network for a hub id.

        Args:
            spec: "demo" or "demo@1" (shipped with this package), a folder (a model, or a PEFT adapter whose config names
                its base), or a hub id.
            device: torch device; None is the GPU where there is one.
            dtype: of the weights; "auto" is the checkpoint's own.
            use_safetensors: False reads pickles, too, which can run code.
        Raises:
            ConfigError: nothing is there, or the model does not end in exactly one score.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        base, adapter = _parts(spec)
        options = weight_options(base, use_safetensors)
        if adapter and use_safetensors is not False:
            refuse_pickled_adapter(Path(adapter))
        try:
            with _quiet_about_the_head(adapter is not None):
                model = load_whole(
                    AutoModelForSequenceClassification,
                    base,
                    brought=_brought(adapter),
                    dtype=dtype,
                    **options,
                    **({"num_labels": 1} if adapter else {}),
                )
            if adapter:
                model = attached(model, adapter)
            tokenizer = AutoTokenizer.from_pretrained(_tokenizer_home(base, adapter))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot load the reward model {spec!r}: {error}") from error
        if model.config.num_labels != 1:
            raise ConfigError(
                f"a reward model has one output, {spec!r} has {model.config.num_labels}; use classifier:{spec}"
            )
        tokenizer.padding_side = "right"
        tokenizer.truncation_side = "left"
        return cls(made_ready(model, tokenizer, device), tokenizer, spec)

    def score_answers(self, prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
        """As :meth:`score`, of one answer per prompt."""
        return self.score(list(zip(prompts, answers, strict=True)))

    def score(self, items: Sequence[tuple[str | Messages, Reply]], batch_size: int = 8) -> list[float]:
        """Score answers; higher is better, only differences under one prompt mean anything.

        Args:
            items: (prompt, answer) pairs; a prompt is a string or chat messages.
            batch_size: texts per forward pass; lengths are grouped, so the order of items is free.
        Returns:
            one float per item, in order. Texts beyond the model's context lose their beginning. A text is scored once.
        """
        texts = [self._pieces(prompt, answer) for prompt, answer in items]
        keys = [digest(text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        self._known.update(zip(new, self._forward(list(new.values()), batch_size), strict=True))
        return [self._known[key] for key in keys]

    def _pieces(self, prompt: str | Messages, answer: Reply) -> tuple[Piece, ...]:
        """What a reward model reads: prompt and answer, its thinking removed, in the tokenizer's own chat format."""
        messages = conversation(
            prompt, shown_text(answer) if isinstance(answer, str) else tuple(map(shown_text, answer))
        )
        if self.tokenizer.chat_template:
            return self.speller.conversation(messages)
        return self.speller.plain("\n\n".join(message["content"] for message in messages))

    def _forward(self, texts: list[tuple[Piece, ...]], batch_size: int) -> list[float]:
        by_length = sorted(range(len(texts)), key=lambda i: sum(len(text) for text, _ in texts[i]), reverse=True)
        scores = [0.0] * len(texts)
        for start in range(0, len(texts), batch_size):
            rows = by_length[start : start + batch_size]
            found = outputs_of(self.model, self.speller, [texts[i] for i in rows])[:, 0].tolist()  # (B, 1) -> B
            for i, value in zip(rows, found, strict=True):
                scores[i] = value
        return scores


@functools.lru_cache(maxsize=2)
def load_scorer(spec: str, device: str | None = None) -> RewardModel:
    """Return the model behind ``reward:<model>``, held once per process; see `RewardModel.load`."""
    return RewardModel.load(spec.removeprefix("reward:"), device=device)


class RewardJudge(LocalJudge):
    """Pairwise judge made of a reward model. Options: device, dtype, batch_size, use_safetensors."""

    kind = "pairwise"

    def __init__(
        self,
        name: str,
        *,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int = 8,
        use_safetensors: bool | None = None,
    ):
        check_model_options(device, dtype, batch_size)
        self.name = f"reward:{name}"
        self.batch_size = batch_size
        self.reward_model = RewardModel.load(name, device=device, dtype=dtype, use_safetensors=use_safetensors)
        self.fingerprint = digest(loaded_mark(name, dtype))

    def rule(self, questions: Iterable[Question], sitting: Sitting) -> None:
        """Score both texts of every question and record sigmoid(first - second)."""
        questions = iter(questions)
        while chunk := list(islice(questions, _QUESTIONS_AT_ONCE)):
            started = time.time()
            texts = [(q.messages, text) for q in chunk for text in (q.first, q.second or "")]
            scores = self.reward_model.score(texts, self.batch_size)
            seconds = (time.time() - started) / len(chunk)
            for row, question in enumerate(chunk):
                first, second = scores[2 * row : 2 * row + 2]
                sitting.record(_ruling(question, first, second, self.name, seconds))


def reward_mark(spec: str, dtype: str = "auto") -> dict[str, Any]:
    """Return what tells a reward model from another: name, dtype and hashes of files; see `RewardModel.load`."""
    return {"kind": "reward", "model": spec, **model_mark(dtype, *_parts(spec))}


def loaded_mark(spec: str, dtype: str = "auto") -> dict[str, Any]:
    """`reward_mark` with the commits of hub ids; known once the model is in the hub's cache, see `hub_mark`."""
    return reward_mark(spec, dtype) | hub_mark(*_parts(spec))


def refuse_twins(*specs: str | None) -> None:
    """Refuse reward models that are one under several names: what chooses answers, or is optimised, cannot measure them.

    Args:
        specs: "reward:<model>"; other names and None are passed over. One name twice is the caller's to judge.
    Raises:
        ConfigError: two names stand for weight files of one content. A copy in another dtype is not noticed.
    """
    named = dict.fromkeys(name for name in specs if name and name.startswith("reward:"))
    seen: dict[tuple[str, ...], str] = {}
    for spec in named if len(named) > 1 else ():  # one alone has no twin, and its weights need not be read
        files = model_mark("", *_parts(spec.removeprefix("reward:")))["files"]
        weights = tuple(sorted(mark for name, mark in files if name.endswith(WEIGHTS)))
        if weights and (other := seen.setdefault(weights, spec)) != spec:
            raise ConfigError(
                f"{other} and {spec} are one reward model by two names: what chooses answers, or is optimised, cannot "
                "measure them; pass two models"
            )


def _ruling(question: Question, first: float, second: float, model: str, seconds: float) -> Ruling:
    common: dict[str, Any] = {
        "key": question.key,
        "model": model,
        "seconds": seconds,
        "created": time.time(),
        "form": "score",
    }
    if not (math.isfinite(first) and math.isfinite(second)):
        return Ruling(**common, reason="unreadable", detail=f"scores {first} and {second} are not finite")
    margin = first - second
    # The branch keeps exp() from overflowing.
    p = 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))
    return Ruling(**common, p=p, reply=json.dumps({"first": first, "second": second}))


@contextmanager
def _quiet_about_the_head(quiet: bool) -> Iterator[None]:
    """A base without a head is no cause for transformers' warning where the adapter brings one."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    if quiet:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _parts(spec: str) -> tuple[str, str | None]:
    """(base model, adapter folder or None) of a spec."""
    from aad_plugin.demo.assets import SHIPPED, base_model_path, reward_adapter_path

    if spec in SHIPPED:
        return str(base_model_path()), str(reward_adapter_path(spec))
    config = Path(spec) / "adapter_config.json"
    if not config.is_file():
        return spec, None
    base = json.loads(config.read_text()).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{config} does not name its base model (base_model_name_or_path); merge the adapter first")
    return base, spec


def _brought(adapter: str | None) -> list[str]:
    """Names of an adapter's tensors, the reward model's head among them."""
    from peft.utils import load_peft_weights

    return list(load_peft_weights(adapter, device="cpu")) if adapter else []


def _tokenizer_home(base: str, adapter: str | None) -> str:
    """An adapter folder that holds a tokenizer was trained with it."""
    return adapter if adapter and (Path(adapter) / "tokenizer_config.json").is_file() else base
