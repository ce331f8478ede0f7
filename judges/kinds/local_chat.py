"""``hf:`` judges: a chat model in this process, asked with the same prompts and read by the same parser as an API."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any, cast

from aad_plugin.errors import ConfigError, first_line
from aad_plugin.judges.asking.requests import Reply, Request
from aad_plugin.judges.asking.templates import Template
from aad_plugin.judges.kinds.chat import Channel, ChatJudge, asked_template, forms_of
from aad_plugin.judges.kinds.local_models import (
    check_model_options,
    made_ready,
    marks_of_model,
    weight_options,
)
from aad_plugin.judges.kinds.spelling import Speller
from aad_plugin.judges.sitting.sitting import Sitting
from aad_plugin.sources.images import read_picture
from aad_plugin.sources.processors import load_processor, processor_mark
from aad_plugin.sources.whole_weights import load_whole
from aad_plugin.texts.rendering import known_context, render_chat

_TOP = 20


def hf_judge(
    name: str,
    *,
    template: str | None = None,
    rubric: str | None = None,
    reasons: str = "none",
    language: str | None = None,
    device: str | None = None,
    dtype: str = "auto",
    batch_size: int = 4,
    max_tokens: int | None = None,
    use_safetensors: bool | None = None,
    sees: bool = False,
) -> ChatJudge:
    """A judge made of a causal language model with a chat template; a folder or a hub id.

    Pairwise templates are judged by the log-probabilities of the reply's first token, pointwise ones by greedy
    generation of a tag, `max_tokens` (1024) at most; so are those with reasons or a rubric (see `openai.openai_judge` for
    these and `language`). Pickled weights are read where `use_safetensors` is False. With `sees` it is a model of image
    and text with a processor, is shown the pictures of prompts, and reads one request at a time.

    Raises:
        ConfigError: `sees` and no such model, or a template whose verdicts it cannot give, see `hf_forms`.
    """
    check_model_options(device, dtype, batch_size)
    forms = hf_forms(asked_template(template, rubric, reasons))
    local = _Seeing if sees else _Local
    channel = local(name, device, dtype, batch_size, use_safetensors)
    return ChatJudge(
        "hf", name, channel, template=template, forms=forms, parameters={}, max_tokens=max_tokens, mark=channel.mark,
        rubric=rubric, reasons=reasons, language=language, sees=sees,
    )  # fmt: skip


def hf_forms(template: Template) -> list[str]:
    """The form in which a judge in this process replies to a template.

    Raises:
        ConfigError: a pairwise template with choices of its own: log-probabilities tell A from B alone.
    """
    by_letter = template.kind == "pairwise" and template.reasons == "none" and not template.criteria
    return forms_of(template, ["logprobs" if by_letter else "tag"])


class _Local(Channel):
    """The channel of ``hf:``: batches of prompts through one model, replies in the shape of chat completions."""

    transports: tuple[str, ...] = ("live",)
    in_process = True

    def __init__(self, name: str, device: str | None, dtype: str, batch_size: int, use_safetensors: bool | None):
        try:
            model = self._load(name, dtype, weight_options(name, use_safetensors))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot load the judge model {name!r}: {first_line(error)}") from error
        if not self.tokenizer.chat_template:
            raise ConfigError(f"the judge model {name!r} has no chat template; choose an instruction-tuned model")
        self.model = made_ready(model, self.tokenizer, device)
        self.speller = Speller(self.tokenizer)
        self.mark = marks_of_model(dtype, name)
        self.context = known_context(model.config) or math.inf
        self.name = name
        self.batch_size = batch_size

    def _load(self, name: str, dtype: str, options: dict[str, Any]) -> Any:
        """Return the model; sets `tokenizer`."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
        return load_whole(AutoModelForCausalLM, name, dtype=dtype, **options)

    def can_probe(self, sitting: Sitting) -> bool:
        """There is one form only, so there is nothing to find out."""
        return False

    def send(self, requests: Iterable[Request], on_reply: Callable[[Reply], None], sitting: Sitting) -> None:
        """Answer requests in batches; blocks on the device. Those beyond the model's context are rejected."""
        pending = iter(requests)
        while batch := list(islice(pending, self.batch_size)):
            started = time.time()
            fitting = [request for request in batch if self._fits(request, on_reply)]
            if not fitting:
                continue
            bodies = self._first_tokens(fitting) if batch[0].body.get("logprobs") else self._generate(fitting)
            for request, body in zip(fitting, bodies, strict=True):
                on_reply(Reply(request.key, body, seconds=(time.time() - started) / len(fitting)))

    def _fits(self, request: Request, on_reply: Callable[[Reply], None]) -> bool:
        size = self._size(request)
        if size > self.context:
            detail = f"{size} tokens, the judge reads {self.context}"
            on_reply(Reply(request.key, None, reason="rejected", detail=detail))
        return size <= self.context

    def _size(self, request: Request) -> int:
        """Number of tokens that a request has."""
        return len(self._ids(request))

    def _ids(self, request: Request) -> list[int]:
        return self.speller.ids(self.speller.conversation(request.body["messages"], add_generation_prompt=True))

    def _inputs(self, batch: list[Request]) -> Any:
        return self.speller.padded([self._ids(request) for request in batch]).to(self.model.device)

    def _positions(self, inputs: Any) -> dict[str, Any]:
        """Where a padded row's tokens stand."""
        return {"position_ids": inputs["attention_mask"].cumsum(-1).sub(1).clamp(min=0)}

    def _first_tokens(self, batch: list[Request]) -> list[dict[str, Any]]:
        import torch

        inputs = self._inputs(batch)
        with torch.inference_mode():
            logits = self.model(**inputs, **self._positions(inputs), logits_to_keep=1).logits[:, -1].float()
        top = logits.log_softmax(-1).topk(_TOP)
        bodies = []
        for row in range(len(batch)):
            tokens = self.tokenizer.batch_decode(top.indices[row].unsqueeze(-1))
            pairs = [
                {"token": token, "id": number, "logprob": value}
                for token, number, value in zip(
                    tokens, top.indices[row].tolist(), top.values[row].tolist(), strict=True
                )
            ]
            bodies.append(
                self._body(tokens[0], "length", inputs["attention_mask"][row], 1)
                | {"logprobs": {"content": [pairs[0] | {"top_logprobs": pairs}]}}
            )
        return [_completion(body) for body in bodies]

    def _generate(self, batch: list[Request]) -> list[dict[str, Any]]:
        import torch

        inputs = self._inputs(batch)
        limit = batch[0].max_tokens
        room = self.context - inputs["input_ids"].shape[1] + 1  # the last token is not read any more
        if room < limit and len(batch) > 1:  # a long neighbour must not cut a reply short
            return [body for request in batch for body in self._generate([request])]
        limit = int(min(limit, room))
        with torch.inference_mode():
            generated = self.model.generate(
                **inputs, max_new_tokens=limit, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
            )
        bodies = []
        for row, tokens in enumerate(generated[:, inputs["input_ids"].shape[1] :]):
            kept = [token for token in tokens.tolist() if token != self.tokenizer.pad_token_id]
            ended = len(kept) < limit or self.tokenizer.eos_token_id in kept
            text = self.tokenizer.decode(kept, skip_special_tokens=True)
            body = self._body(text, "stop" if ended else "length", inputs["attention_mask"][row], len(kept))
            bodies.append(_completion(body))
        return bodies

    def _body(self, text: str, finish: str, mask: Any, num_tokens: int) -> dict[str, Any]:
        return {
            "message": {"role": "assistant", "content": text},
            "finish_reason": finish,
            "model": self.name,
            "usage": {"prompt_tokens": int(mask.sum()), "completion_tokens": num_tokens},
        }


class _Seeing(_Local):
    """A model of image and text: its processor reads the image parts of a request, one request at a time.

    The processor encodes whole texts, so judged text cannot be spelt out token by token: a mark in it gets a zero-width
    space behind its first character instead, and is no mark any more.
    """

    def _load(self, name: str, dtype: str, options: dict[str, Any]) -> Any:
        from transformers import AutoConfig, AutoModelForImageTextToText

        self.processor: Any = load_processor(name, AutoConfig.from_pretrained(name))
        if self.processor is None:
            raise ConfigError(
                f"the judge model {name!r} reads text alone (no processor of pictures): leave sees=true out, or name a "
                "model of image and text"
            )
        self.tokenizer = self.processor.tokenizer
        if not self.tokenizer.chat_template:
            self.tokenizer.chat_template = getattr(self.processor, "chat_template", None)
        return load_whole(AutoModelForImageTextToText, name, dtype=dtype, **options)

    def __init__(self, name: str, device: str | None, dtype: str, batch_size: int, use_safetensors: bool | None):
        # Pictures of several requests would be one tensor, and padding would move them.
        super().__init__(name, device, dtype, 1, use_safetensors)
        self.mark |= {"processor": processor_mark(self.processor)}

    def _size(self, request: Request) -> int:
        return int(self._inputs([request])["input_ids"].shape[1])  # a picture's tokens are the processor's business

    def _inputs(self, batch: list[Request]) -> Any:
        (request,) = batch
        images: list[Any] = []
        messages = [self._in_parts(message, images) for message in request.body["messages"]]
        written = partial(self.processor.apply_chat_template, add_generation_prompt=True, tokenize=False)
        text = render_chat(written, messages, "a prompt of this judge")
        shown = {"images": [images]} if images else {}
        try:
            found = self.processor(text=[text], **shown, return_tensors="pt", add_special_tokens=False)
        except (ValueError, TypeError, IndexError, KeyError, RuntimeError) as error:
            raise ConfigError(
                f"the judge model {self.name!r} does not take these pictures: {first_line(error)}"
            ) from error
        return found.to(self.model.device, self.model.dtype)

    def _positions(self, inputs: Any) -> dict[str, Any]:
        return {}  # nothing is padded, and where a picture's tokens stand is the model's own rule

    def _in_parts(self, message: dict[str, Any], images: list[Any]) -> dict[str, Any]:
        """A message with its texts made harmless and its pictures handed to `images`."""
        content = message["content"]
        given = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts: list[dict[str, Any]] = []
        for part in cast(list[dict[str, Any]], given):
            if part["type"] == "text":
                parts.append({"type": "text", "text": self.speller.defused(part["text"])})
            else:
                images.append(read_picture(part["image_url"]["url"]).image)
                parts.append({"type": "image"})
        return {**message, "content": parts}


def _completion(parts: dict[str, Any]) -> dict[str, Any]:
    """Put the parts of one reply where the OpenAI format has them."""
    model, usage = parts.pop("model"), parts.pop("usage")
    return {"model": model, "usage": usage, "choices": [{"index": 0, **parts}]}
