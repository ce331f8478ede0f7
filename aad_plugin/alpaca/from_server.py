"""Outputs of a model behind an OpenAI-compatible API: concurrent, kept as they arrive, retried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.instructions import is_text
from aad_plugin.alpaca.sources import PLACEHOLDER, Answered
from aad_plugin.errors import ConfigError
from aad_plugin.judges.asking.endpoint import Endpoint
from aad_plugin.judges.asking.live import send_live
from aad_plugin.judges.asking.requests import Reply, Request
from aad_plugin.texts.messages import digest

_CHAT = f"<|im_start|>user\n{PLACEHOLDER}\n<|im_end|>"  # how AlpacaEval writes a chat whose template the server applies


class FromServer:
    """A served model that answers; a `Source`.

    Args:
        model: as the server calls it. endpoint: where to ask. max_new_tokens: budget per answer, thinking included.
        parameters: further fields of the request body, e.g. temperature. token_limit_name: field of the budget.
        concurrency: requests in flight. folder: answers are kept below it as they arrive.
    """

    def __init__(
        self,
        model: str,
        endpoint: Endpoint,
        *,
        max_new_tokens: int,
        parameters: Mapping[str, Any],
        token_limit_name: str,
        concurrency: int,
        folder: Path,
    ):
        if concurrency < 1:
            raise ConfigError(f"concurrency must be a whole number of at least 1, got {concurrency}")
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        given = {name: value for name, value in parameters.items() if value is not None}
        self.body = {"model": model, token_limit_name: max_new_tokens, **given}
        self.endpoint, self.concurrency, self.max_new_tokens, self.folder = (
            endpoint,
            concurrency,
            max_new_tokens,
            folder,
        )
        self.asked = {"source": "server", "url": endpoint.address, "body": self.body}
        self.prompt = _CHAT
        self.completions_kwargs: dict[str, Any] = {"model_name": model, "max_new_tokens": max_new_tokens, **given}

    def answer(self, instructions: Sequence[str]) -> list[Answered]:
        """Answer what the folder does not hold yet; blocks on the network.

        Raises:
            JudgeUnavailable: the server answers nothing any more; what arrived is kept. ConfigError: no key.
        """
        from tqdm.auto import tqdm

        from aad_plugin.harness.answer_store import AnswerStore, Stored

        store = AnswerStore(self.folder / f"server-{digest(self.body)[:16]}")
        bodies = [self.body | {"messages": [{"role": "user", "content": text}]} for text in instructions]
        keys = [digest(body)[:32] for body in bodies]
        left = [Request(k, b, self.max_new_tokens) for k, b in zip(keys, bodies, strict=True) if store.find(k) is None]
        reasons: dict[str, str] = {}
        with tqdm(total=len(left), desc="answers", disable=not left) as bar:

            def keep(reply: Reply) -> None:
                bar.update()
                found = _read(reply)
                if found.reason:
                    reasons[reply.key] = found.reason
                else:
                    store.add(reply.key, Stored(self.endpoint.clean_reply(found.text), found.truncated))

            send_live(left, self.endpoint, keep, concurrency=self.concurrency)
        answers = []
        for key in keys:
            stored = store.find(key)
            answers.append(
                Answered(stored.answer, stored.truncated) if stored else Answered("", None, reasons.get(key, ""))
            )
        return answers


def _read(reply: Reply) -> Answered:
    """The text of a chat completion, or why there is none."""
    if reply.body is None:
        return Answered("", None, f"{reply.reason}: {reply.detail}")
    try:
        choice = reply.body["choices"][0]
        text, finish = choice["message"].get("content"), choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return Answered("", None, "the reply is no chat completion")
    if not isinstance(text, str | None):
        return Answered("", None, f"expected text as the message's content, got {type(text).__name__}")
    if text and not is_text(text):
        return Answered("", None, "the answer holds half a surrogate pair, which is no character")
    if finish == "content_filter":
        return Answered("", None, "the server's content filter stopped the answer")
    if not (text or "").strip():
        budget = ", its budget went into thinking: raise --max-new-tokens" if finish == "length" else ""
        return Answered("", finish == "length", f"the answer is empty{budget}")
    return Answered(text or "", finish == "length")
