"""Outputs of an aligned pair, on transformers or on vLLM: the models that lm-eval runs, asked directly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.sources import PLACEHOLDER, Answered
from aad_plugin.errors import ConfigError
from aad_plugin.settings import DecodingSettings

__all__ = ["ENGINES", "FromPair"]

ENGINES = ("hf", "vllm")
# An answer that ends before it begins is asked for once more, with its end put off by this many tokens.
_LEAST_TOKENS = 8
_ELSEWHERE = ("answers_dir", "batch_size", "device", "token", "proxies")  # where and how fast, not what; no secrets


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
        if engine not in ENGINES:
            raise ConfigError(f"engine must be hf or vllm, got {engine!r}")
        for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if engine == "vllm":
            from aad_plugin.engine.options import check_vllm

            check_vllm()
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
        identity = {name: value for name, value in self.arguments.items() if name not in _ELSEWHERE}
        self.asked = {"source": "pair", "engine": engine, "model_args": identity, "max_new_tokens": max_new_tokens}
        self.prompt = PLACEHOLDER
        self.completions_kwargs: dict[str, Any] = {"max_new_tokens": max_new_tokens}

    def answer(self, instructions: Sequence[str]) -> list[Answered]:
        """Answer; a blank answer is asked for once more with its end put off by 8 tokens.

        Raises:
            ConfigError: an instruction leaves no room in the context.
        """
        model = self._load()
        contexts = [self._render(model, instruction) for instruction in instructions]
        self._check_room(model, contexts)
        self.prompt = self._render(model, PLACEHOLDER)
        self.completions_kwargs |= _describe(model)
        answers = _generate(model, contexts, self.gen_kwargs)
        blank = [row for row, answer in enumerate(answers) if not answer.text.strip()]
        if blank:
            later = self.gen_kwargs | {"min_new_tokens": min(_LEAST_TOKENS, self.max_new_tokens)}
            again = _generate(model, [contexts[row] for row in blank], later)
            for row, answer in zip(blank, again, strict=True):
                answers[row] = answer
        return answers

    def _load(self) -> Any:
        if self.engine == "vllm":
            from aad_plugin.harness.vllm_model import AADVLLM

            return AADVLLM(**self.arguments)
        import torch

        from aad_plugin.harness.model import AADLM

        return AADLM(**{"device": "cuda" if torch.cuda.is_available() else "cpu", **self.arguments})

    def _render(self, model: Any, instruction: str) -> str:
        """The prompt; without a chat template the instruction alone, to be continued."""
        if not model.tokenizer.chat_template:
            return f"{instruction}\n\n"
        return model.apply_chat_template([{"role": "user", "content": instruction}])

    def _check_room(self, model: Any, contexts: Sequence[str]) -> None:
        """Refuse what lm-eval would answer after cutting off the prompt's beginning."""
        budget = self.max_new_tokens
        for number, context in enumerate(contexts, start=1):
            length = len(model.tok_encode(context))
            if length + budget > model.max_length:
                raise ConfigError(
                    f"instruction {number} has {length} tokens; with {budget} new ones it exceeds the context of "
                    f"{model.max_length}: lower --max-new-tokens, or pass a larger max_length in --model-args"
                )


def _generate(model: Any, contexts: Sequence[str], gen_kwargs: dict[str, Any]) -> list[Answered]:
    from lm_eval.api.instance import Instance

    from aad_plugin.harness.answer_store import is_truncated

    requests = [
        Instance(request_type="generate_until", doc={}, arguments=(context, dict(gen_kwargs)), idx=0)
        for context in contexts
    ]
    texts = model.generate_until(requests)
    return [Answered(text, is_truncated(c, gen_kwargs)) for c, text in zip(contexts, texts, strict=True)]


def _describe(model: Any) -> dict[str, Any]:
    account = model.model_account()
    return {
        "model_name": account.get("pair") or account["parts"],
        "decoding": model.settings.relevant(),
        "dtype": account.get("dtype"),
        "versions": account.get("versions"),
    }
