"""Outputs of an aligned pair, on transformers or on vLLM: the models that lm-eval runs, asked directly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.sources import PLACEHOLDER, Answered
from aad_plugin.errors import ConfigError
from aad_plugin.harness.answer_store import Stored
from aad_plugin.harness.asking import ask, check_engine, check_room, identity, load_model, render
from aad_plugin.settings import DecodingSettings

# An answer that ends before it begins is asked for once more, with its end put off by this many tokens.
_LEAST_TOKENS = 8


class FromPair:
    """A pair that answers; a `Source`.

    Args:
        pair: preset or folder, or None where `model_args` name its parts.
        engine: "hf" (transformers) or "vllm". model_args: as for ``--model aad`` or ``--model aad-vllm``.
        settings: strategy, alpha, …; None values are the pair's own. max_new_tokens: budget per answer.
        batch_size: of "hf". folder: answers are kept below it as they arrive.
    Raises:
        ConfigError: an unknown engine or setting; the weights are loaded by `answer`. BackendMissing: no vLLM.
    """

    def __init__(
        self,
        pair: str | None,
        *,
        engine: str,
        model_args: dict[str, Any],
        settings: dict[str, Any],
        max_new_tokens: int,
        batch_size: int,
        folder: Path,
    ):
        engine = check_engine(engine)
        for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        given = {name: value for name, value in settings.items() if value is not None}
        DecodingSettings().override(**given)  # a typo is refused before any weight is loaded
        self.engine = engine
        arguments = dict(model_args)
        named = arguments.pop("pair", None) or pair
        self.arguments = {**({"pair": named} if named else {}), **arguments, **given, "answers_dir": str(folder)}
        if engine == "hf":
            self.arguments.setdefault("batch_size", batch_size)
        self.max_new_tokens = max_new_tokens
        self.gen_kwargs: dict[str, Any] = {"until": [], "do_sample": False, "max_gen_toks": max_new_tokens}
        self.asked = {
            "source": "pair",
            "engine": engine,
            "model_args": identity(self.arguments),
            "max_new_tokens": max_new_tokens,
        }
        self.prompt = PLACEHOLDER
        self.completions_kwargs: dict[str, Any] = {"max_new_tokens": max_new_tokens}

    def answer(self, instructions: Sequence[str]) -> list[Answered]:
        """Answer; a blank answer is asked for once more with its end put off by 8 tokens.

        Raises:
            ConfigError: an instruction leaves no room in the context.
        """
        model = load_model(self.engine, self.arguments)
        contexts = [render(model, instruction) for instruction in instructions]
        check_room(model, contexts, self.max_new_tokens, "instruction")
        self.prompt = render(model, PLACEHOLDER)
        self.completions_kwargs |= _describe(model)
        answers = _answered(ask(model, contexts, self.gen_kwargs))
        blank = [row for row, answer in enumerate(answers) if not answer.text.strip()]
        if blank:
            later = self.gen_kwargs | {"min_new_tokens": min(_LEAST_TOKENS, self.max_new_tokens)}
            again = _answered(ask(model, [contexts[row] for row in blank], later))
            for row, answer in zip(blank, again, strict=True):
                answers[row] = answer
        return answers


def _answered(stored: Sequence[Stored]) -> list[Answered]:
    return [Answered(answer.answer, answer.truncated) for answer in stored]


def _describe(model: Any) -> dict[str, Any]:
    account = model.model_account()
    return {
        "model_name": account.get("pair") or account["parts"],
        "decoding": model.settings.relevant(),
        "dtype": account.get("dtype"),
        "versions": account.get("versions"),
    }
