"""Chat-model judges: a template asks, a channel carries the request, `replies` reads the verdict.

The channel is what differs between ``openai:`` (a network and its transports) and ``hf:`` (a model in this process).
How the judge is asked to reply, its form, is found out once per store: log-probabilities of a letter where the judge
gives them, else a strict JSON schema, else a tag in the text.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from aad_plugin.errors import AADError, ConfigError, JudgeUnavailable, VerdictUnreadable
from aad_plugin.judges.asking.languages import Tongues
from aad_plugin.judges.asking.replies import Reading, merged, read_reply
from aad_plugin.judges.asking.requests import Budget, Reply, Request, most_cost, prompt_tokens_of, usage_of
from aad_plugin.judges.asking.rubric import read_rubric
from aad_plugin.judges.asking.templates import Template, load_template
from aad_plugin.judges.asking.wording import challenge_text
from aad_plugin.judges.items import Question, Ruling
from aad_plugin.judges.sitting.judge import Judge, Price, Size
from aad_plugin.judges.sitting.pictures import with_pictures
from aad_plugin.judges.sitting.sitting import Sitting
from aad_plugin.texts.cleaning import printable
from aad_plugin.texts.messages import Reply as Text
from aad_plugin.texts.messages import digest

_MAX_TOKENS = 1024
_TRIES_PER_FORM = 2
_REPLY_TOKENS = 12  # of a JSON object or a tag around one word
_REASONS_TOKENS = 150
_PROBE = {
    "pairwise": Question("probe", [{"role": "user", "content": "What is 2 + 2?"}], "2 + 2 is 4.", "2 + 2 is 5."),
    "pointwise": Question("probe", [{"role": "user", "content": "What is 2 + 2?"}], "2 + 2 is 4.", None),
}


class Channel(Protocol):
    """Carries requests to a chat model; `transports` and `in_process` as in `sitting.Judge`."""

    transports: tuple[str, ...]
    in_process: bool

    def send(self, requests: Iterable[Request], on_reply: Callable[[Reply], None], sitting: Sitting) -> None:
        """Ask in order, calling `on_reply` as replies come; raises JudgeUnavailable where none will come any more."""

    def can_probe(self, sitting: Sitting) -> bool:
        """Whether the judge can be asked something right now."""

    def clean(self, text: str) -> str:
        """`text` without the channel's secrets, in one piece for the terminal; a channel that has none changes nothing."""
        return text

    def clean_reply(self, text: str) -> str:
        """`text` without the channel's secrets and otherwise unchanged."""
        return text


class ChatJudge(Judge):
    """A judge that reads a prompt and writes a reply. Build it with `load_judge`."""

    def __init__(
        self,
        kind: str,
        model: str,
        channel: Channel,
        *,
        template: str | None,
        forms: Sequence[str],
        parameters: Mapping[str, Any],
        max_tokens: int | None = None,
        token_limit_name: str = "max_completion_tokens",
        price: Price | None = None,
        mark: Mapping[str, Any] | None = None,
        rubric: str | None = None,
        reasons: str = "none",
        language: str | None = None,
        sees: bool = False,
    ):
        if not isinstance(sees, bool):
            raise ConfigError(f"sees must be true or false, got {sees!r}")
        self.sees = sees
        self.name = f"{kind}:{model}"
        self.model = model
        self.channel = channel
        self.transports = channel.transports
        self.in_process = channel.in_process
        self.mark = mark
        self.template = asked_template(template, rubric, reasons)
        asked: dict[str, Any] = {"reasons": reasons, "criteria": self.template.criteria}
        self.tongues = Tongues(self.template.name, language, **asked) if language is not None else None
        self.can_be_challenged = self.template.kind == "pairwise" and not rubric
        self.kind = self.template.kind
        self.both_orders = self.kind == "pairwise"
        choices = self.template.choices
        if choices:
            self.sides = (choices[0], choices[-1])
        self.grades = bool(self.template.grades)
        self.criteria = tuple(name for name, _ in self.template.criteria)
        self.choices = () if self.grades or self.kind == "pairwise" else choices
        self.forms = forms_of(self.template, forms)
        self.parameters = {name: value for name, value in parameters.items() if value is not None}
        if max_tokens is not None and not (isinstance(max_tokens, int) and max_tokens >= 1):
            raise ConfigError(f"max_tokens must be a whole number of at least 1, got {max_tokens!r}")
        self.max_tokens = max_tokens or _MAX_TOKENS
        self.token_limit_name = token_limit_name
        self.price = price
        self.form = self.forms[0]
        self.form_known = len(self.forms) == 1

    @property
    def template_hash(self) -> str:
        """Hash of the prompt template and the reply instructions."""
        return self.template.hash

    @property
    def fingerprint(self) -> str:
        """Hash of model, parameters, template and form; not of base URL or transport, which do not shape a verdict."""
        return digest([*self._identity(), self.form])

    def prepare(self, sitting: Sitting) -> None:
        """Settle the form: from the store's note, by a probe, or, where nothing can be asked now, the first one.

        Raises:
            JudgeUnavailable: the probe got no reply. VerdictUnreadable: it got one, but no verdict in any form.
        """
        if len(self.forms) == 1:
            return
        noted = sitting.store.noted("probe", judge=self.probe)
        if noted:
            self.form, self.form_known = noted[-1]["form"], True
        elif self.channel.can_probe(sitting):
            now = self._now(sitting)
            tokens = [0, 0]
            try:
                self.form, self.form_known = self._probe(now, tokens), True
            except AADError:
                self._note_probe("probe_failed", tokens, now)
                raise
            self._note_probe("probe", tokens, now, form=self.form)
            if self.price and sitting.max_cost is not None:
                sitting.budget = Budget(sitting.max_cost, self.price.by(sitting.transport))
                sitting.budget.spent = now.budget.spent

    def rule(self, questions: Iterable[Question], sitting: Sitting) -> None:
        """Send all questions through the channel and record what the replies say."""
        bill = self.price.by(sitting.transport) if self.price else None
        way = "" if self.in_process else sitting.transport
        requests = (self.request(question) for question in questions)
        self.channel.send(requests, lambda r: sitting.record(self.ruling(r, bill, way)), sitting)

    def request(self, question: Question, form: str | None = None) -> Request:
        """A question as a chat completion's body."""
        form = form or self.form
        limit = 1 if form == "logprobs" else self.max_tokens
        body = {"model": self.model, "messages": self._messages(question, form), self.token_limit_name: limit}
        body |= self.parameters
        if form == "logprobs":
            body |= {"logprobs": True, "top_logprobs": 20}
        elif form == "json":
            body["response_format"] = {"type": "json_schema", "json_schema": self._schema()}
        return Request(question.key, body, limit)

    def language_of(self, first: Text, second: Text | None) -> str:
        """The language two answers are asked about in, or what stands in for it; "" where languages are not told apart."""
        return self.tongues.told(first, second) if self.tongues else ""

    def _messages(self, question: Question, form: str) -> list[dict[str, Any]]:
        template = self.tongues.template(question) if self.tongues else self.template
        messages = with_pictures(template.messages(question, form), question.pictures)
        if question.challenged is None:
            return messages
        said = _stated(template, question.challenged, form)
        return [
            *messages,
            {"role": "assistant", "content": said},
            {"role": "user", "content": challenge_text(template.language)},
        ]

    def size(self, question: Question, price: Price | None) -> Size:
        """Tokens of a question, and the most it costs in the dearest form that may be asked."""
        request = self.request(question)
        most = 0.0
        if price:
            forms = [request] if self.form_known else [self.request(question, form) for form in self.forms]
            most = max(most_cost(one, price) for one in forms)
        return Size(round(prompt_tokens_of(request.body)), min(_reply_tokens(self.template), request.max_tokens), most)

    def clean(self, text: str) -> str:
        """`text` without the secrets of the judge's endpoint, in one piece for the terminal."""
        return self.channel.clean(text)

    def ruling(self, reply: Reply, bill: Price | None = None, transport: str = "") -> Ruling:
        """What a reply by a transport says, with what it tells about itself and what it cost at the price `bill`."""
        common: dict[str, Any] = {
            "key": reply.key, "seconds": round(reply.seconds, 4), "created": time.time(), "transport": transport,
        }  # fmt: skip
        clean = self.channel.clean_reply
        if reply.body is None:
            return Ruling(**common, reason=reply.reason, detail=printable(clean(reply.detail))[:300])
        bodies = (reply.body, *reply.also)
        read = merged([read_reply(body, self.template, self.form) for body in bodies])
        tokens = usage_of(reply.body)
        return Ruling(
            **common,
            p=read.p,
            grade=read.grade,
            label=read.label,
            criteria=read.criteria,
            reason=read.reason,
            detail=self._detail(read, bodies, clean),
            reply=_whole(clean(read.text)),
            form=read.form,
            model=printable(clean(str(reply.body.get("model") or ""))),
            system_fingerprint=printable(clean(str(reply.body.get("system_fingerprint") or ""))),
            prompt_tokens=tokens[0],
            completion_tokens=tokens[1],
            cost=bill.cost(*tokens) if bill else None,
        )

    def _detail(self, read: Reading, bodies: Sequence[Mapping[str, Any]], clean: Callable[[str], str]) -> str:
        """Why there is no verdict, in the words of a reply that was cleaned before it was cut to length."""
        if read.reason is None or not read.detail:
            return ""
        try:
            shown = [_cleaned(body, clean) for body in bodies]
        except RecursionError:  # nested too deeply to be cleaned, so not shown
            return read.reason
        again = merged([read_reply(body, self.template, self.form) for body in shown])
        return printable(clean(again.detail or read.reason))

    def _identity(self) -> list[Any]:
        known = [self.name, self.parameters, self.max_tokens, self.template.hash]
        known += [] if self.mark is None else [self.mark]
        return [*known, self.tongues.mark] if self.tongues and self.tongues.mark else known

    def _schema(self) -> dict[str, Any]:
        grades = self.template.grades
        values: dict[str, Any] = {"type": "string", "enum": list(self.template.choices)}
        if grades:
            values = {"type": "integer", "enum": list(range(grades[0], grades[1] + 1))}
        # Models write fields in the order of the schema, so the reasons stand where they are wanted.
        fields: dict[str, Any] = {name: values for name, _ in self.template.criteria} or {"verdict": values}
        if self.template.reasons == "before":
            fields = {"reasons": {"type": "string"}, **fields}
        elif self.template.reasons == "after":
            fields = {**fields, "reasons": {"type": "string"}}
        return {
            "name": "verdict",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": fields,
                "required": list(fields),
                "additionalProperties": False,
            },
        }

    @property
    def probe(self) -> str:  # type: ignore[override]
        """By what the store notes the replies that settled the form."""
        return digest(self._identity()) if len(self.forms) > 1 else ""

    def _now(self, sitting: Sitting) -> Sitting:
        """The sitting as probes have it: live, whatever the transport, and under the same cost limit."""
        now = dataclasses.replace(sitting, transport="live")
        now.budget = Budget(sitting.max_cost, self.price)
        return now

    def _note_probe(self, kind: str, tokens: Sequence[int], now: Sitting, **more: Any) -> None:
        if kind == "probe_failed" and not any(tokens):
            return
        cost = {"cost": self.price.cost(*tokens)} if self.price else {}
        told = dict(zip(("prompt_tokens", "completion_tokens"), tokens, strict=True))
        now.store.note(kind, judge=self.probe, **more, **told, **cost)

    def _probe(self, now: Sitting, tokens: list[int]) -> str:
        """The first form in which the judge gives a verdict; adds what its replies took to `tokens`."""
        said = []
        for form in self.forms:
            for _ in range(_TRIES_PER_FORM):
                replies: list[Reply] = []
                self.channel.send([self.request(_PROBE[self.kind], form)], replies.append, now)
                if not replies:
                    raise ConfigError(
                        f"a cost limit of {now.max_cost:g} does not cover the question that finds out how {self.name} "
                        "replies: raise it, or name the form with --form"
                    )
                (reply,) = replies
                tokens[:] = (sum(pair) for pair in zip(tokens, usage_of(reply.body or {}), strict=True))
                if reply.body is None and reply.reason == "transport":
                    raise JudgeUnavailable(self.clean(f"the judge {self.name} does not answer: {reply.detail}"))
                if reply.body is None:  # the server rejects this form
                    said.append(f"{form}: {reply.detail}")
                    break
                read = read_reply(reply.body, self.template, form)
                # A judge that leaves a criterion out now and then still knows the form.
                if read.reason in (None, "incomplete") and (read.form == form or _holds_logprobs(reply.body)):
                    return form
                said.append(f"{form}: {read.detail or read.reason or read.form}")
        told = f"the judge {self.name} gave no verdict on a plain question in any form; last: {said[-1]}"
        raise VerdictUnreadable(printable(self.clean(told + (f"; first: {said[0]}" if len(self.forms) > 1 else ""))))


def asked_template(template: str | None = None, rubric: str | None = None, reasons: str = "none") -> Template:
    """The template of a chat judge with these options: "dialogue" by default, "rubric" with a rubric.

    Raises:
        ConfigError: as `load_template` and `read_rubric`.
    """
    name = template or ("rubric" if rubric else "dialogue")
    return load_template(name, reasons=reasons, criteria=read_rubric(rubric) if rubric else ())


def forms_of(template: Template, forms: Sequence[str]) -> list[str]:
    """Those of the forms in which a judge can give a template's verdicts.

    Raises:
        ConfigError: none of them.
    """
    found = [form for form in forms if form != "logprobs" or template.soft]
    if not found:
        asked = ", ".join(template.choices)
        besides = f" with reasons {template.reasons} them" if template.reasons != "none" else ""
        raise ConfigError(
            f"log-probabilities give verdicts between A and B only, the template {template.name!r} asks for {asked}"
            + (" by several criteria" if template.criteria else besides)
            + "; choose another template or form"
        )
    return found


def _reply_tokens(template: Template) -> int:
    """Of a usual reply: a word per criterion, and the reasons where they are asked for."""
    words = max(1, len(template.criteria))
    return _REPLY_TOKENS * words + (_REASONS_TOKENS if template.reasons != "none" else 0)


def _stated(template: Template, p: float, form: str) -> str:
    """The verdict nearest to p as the judge was asked to write it."""
    menu = {name: value for name, value in template.values.items() if form != "logprobs" or value in (0.0, 1.0)}
    choice = min(menu, key=lambda name: abs(menu[name] - p))
    if form == "logprobs":
        return choice
    return json.dumps({"verdict": choice}) if form == "json" else f"<verdict>{choice}</verdict>"


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    """A JSON value with its texts cleaned, keys included; numbers and the like stay what they are."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {_cleaned(key, clean): _cleaned(inner, clean) for key, inner in value.items()}
    return [_cleaned(inner, clean) for inner in value] if isinstance(value, list) else value


def _whole(text: str) -> str:
    """Text that every file can hold: half of a surrogate pair is no character."""
    return text.encode(errors="replace").decode()


def _holds_logprobs(body: Mapping[str, Any]) -> bool:
    """Whether a reply brought log-probabilities at all; a sure judge may have none for the other letter."""
    logprobs = body["choices"][0].get("logprobs")
    return bool(
        isinstance(logprobs, Mapping) and logprobs.get("content") and logprobs["content"][0].get("top_logprobs")
    )
