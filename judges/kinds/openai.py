"""``openai:`` judges: a chat model behind an OpenAI-compatible API, by whichever transport the run has chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from aad_plugin.errors import ConfigError
from aad_plugin.judges.asking.endpoint import Endpoint
from aad_plugin.judges.asking.patience import PATIENCE_S
from aad_plugin.judges.asking.requests import Reply, Request
from aad_plugin.judges.asking.wording import FORMS
from aad_plugin.judges.kinds.chat import Channel, ChatJudge
from aad_plugin.judges.sitting.judge import Price
from aad_plugin.judges.sitting.sitting import TRANSPORTS, Sitting


class _Network(Channel):
    """The channel of ``openai:``: the endpoint, by whichever transport the run has chosen."""

    transports: tuple[str, ...] = TRANSPORTS
    in_process = False

    def __init__(self, endpoint: Endpoint, concurrency: int, price: Price | None):
        self.endpoint = endpoint
        self.concurrency = concurrency
        self.price = price

    def can_probe(self, sitting: Sitting) -> bool:
        return sitting.transport != "file"

    def clean(self, text: str) -> str:
        return self.endpoint.clean(text)

    def clean_reply(self, text: str) -> str:
        return self.endpoint.clean_reply(text)

    def send(self, requests: Iterable[Request], on_reply: Callable[[Reply], None], sitting: Sitting) -> None:
        from aad_plugin.judges.asking.transports import send

        send(requests, on_reply, sitting, self.endpoint, self.concurrency, self.price)


def openai_judge(
    name: str,
    *,
    base_url: str | None = None,
    key_variable: str = "OPENAI_API_KEY",
    headers: Mapping[str, str] | None = None,
    temperature: float | None = 0.0,
    max_tokens: int | None = None,
    token_limit_name: str = "max_completion_tokens",
    reasoning_effort: str | None = None,
    concurrency: int = 16,
    timeout_s: float = 120.0,
    patience_s: float = PATIENCE_S,
    price: Sequence[float] | Mapping[str, float] | str | None = None,
    form: str = "auto",
    template: str | None = None,
    rubric: str | None = None,
    reasons: str = "none",
    language: str | None = None,
    sees: bool = False,
) -> ChatJudge:
    """A judge behind an OpenAI-compatible API.

    Args:
        name: model, as the server calls it.
        base_url, key_variable, headers, timeout_s, patience_s: see `Endpoint`.
        temperature: 0 by default; None leaves it out (reasoning models reject it).
        max_tokens: of replies in the forms json and tag, thinking included; 1024 by default.
        token_limit_name: "max_tokens" for servers that do not know the newer name.
        reasoning_effort: passed on; "none" makes some reasoning models give log-probabilities.
        concurrency: requests in flight, live transport only.
        price: money per million prompt and completion tokens, [in, out] or "in/out".
        form: logprobs, json or tag; "auto" finds out.
        template: name or file, see `templates`; "dialogue" by default, "rubric" with a rubric.
        rubric: file of criteria that are judged in one call, see `rubric`.
        reasons: none, before or after the verdict; with reasons there are no log-probabilities.
        language: of the prompt, a code such as "de", or "auto" for that of the answers; English by default.
        sees: whether the model takes image parts; items with pictures are refused without it, and text is judged alike.
    """
    _check(form, concurrency, temperature, reasoning_effort)
    paid = _price(price)
    endpoint = Endpoint(base_url, key_variable, {} if headers is None else headers, timeout_s, patience_s)
    return ChatJudge(
        "openai",
        name,
        _Network(endpoint, concurrency, paid),
        template=template,
        forms=FORMS if form == "auto" else [form],
        # 0 and 0.0 are one temperature, and one key in the store
        parameters={
            "temperature": None if temperature is None else float(temperature),
            "reasoning_effort": reasoning_effort,
        },
        max_tokens=max_tokens,
        token_limit_name=token_limit_name,
        price=paid,
        rubric=rubric,
        reasons=reasons,
        language=language,
        sees=sees,
    )


def _price(price: Sequence[float] | Mapping[str, float] | str | None) -> Price | None:
    if price is None:
        return None
    try:
        numbers = price.split("/") if isinstance(price, str) else price
        if isinstance(numbers, Mapping):
            numbers = [numbers["prompt"], numbers["completion"]]
        prompt, completion = (float(number) for number in numbers)
    except (ValueError, TypeError, KeyError):
        prompt = completion = math.nan
    if not (prompt >= 0 and completion >= 0):
        raise ConfigError(f"price is money per million prompt and completion tokens, e.g. 2.0/8.0, got {price!r}")
    return Price(prompt, completion)


def _check(form: object, concurrency: object, temperature: object, reasoning_effort: object) -> None:
    if form not in ("auto", *FORMS):
        raise ConfigError(f"form must be auto or one of {', '.join(FORMS)}, got {form!r}")
    if not (isinstance(concurrency, int) and concurrency >= 1):
        raise ConfigError(f"concurrency must be a whole number of at least 1, got {concurrency!r}")
    is_number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if temperature is not None and not (is_number and 0 <= temperature < math.inf):  # type: ignore[operator]
        raise ConfigError(f"temperature must be a number of at least 0, or null to leave it out, got {temperature!r}")
    if reasoning_effort is not None and not isinstance(reasoning_effort, str):
        raise ConfigError(f"reasoning_effort must be a word (in YAML perhaps in quotes), got {reasoning_effort!r}")
