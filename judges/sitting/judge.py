"""What a judge of any kind offers, and what it costs.

Third parties provide factories of such objects through the entry-point group ``aad_plugin.judges``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from aad_plugin.judges.items import Question
from aad_plugin.judges.sitting.sitting import Sitting
from aad_plugin.judges.statistics.limits import Limits
from aad_plugin.texts.messages import Reply


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens, in one currency."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What these many tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6

    def by(self, transport: str) -> Price:
        """The price by a transport: OpenAI's Batch API takes half."""
        return Price(self.prompt / 2, self.completion / 2) if transport == "batch" else self


class Size(NamedTuple):
    """One question's share of a bill: estimated tokens, the most it can cost in the price's currency, and requests."""

    prompt_tokens: int
    completion_tokens: int
    most_cost: float
    requests: int = 1


class Judge(Protocol):
    """The interface of a judge of any kind.

    A kind that derives from this class has the defaults below; :func:`completed` gives them to any other object.

    Attributes:
        name: the spec without options, e.g. "openai:gpt-4.1-mini". kind: "pairwise" or "pointwise".
        both_orders: whether each comparison is asked twice with the answers swapped.
        fingerprint: hash of everything that shapes a verdict except the texts; read after `prepare`.
        template_hash: hash of the prompt template; "" without one. price: None where none is known.
        transports: the ways in which it can be asked: live, batch, file.
        in_process: whether it runs in this process and costs nothing; then no cost limit applies.
        limits: how far its two orders may disagree.
        sides: the words by which its replies prefer the first answer, and the second.
        choices: a pointwise judge's labels; empty where it grades, or where they are not known.
        grades: whether a pointwise judge gives numbers.
        criteria: names of a rubric's criteria, by each of which it gives a verdict; empty where it gives one.
        is_seeded: whether it asks each comparison once, in an order of its own.
        can_be_challenged: whether it can be told that a verdict is wrong, and asked again.
        sees: whether it is shown the pictures of a prompt; one that is not refuses items with pictures.
        form_known: whether it is settled how it will be asked to reply.
        probe: by what the store notes the replies that settled it, which are billed; "" where none are needed.
    """

    name: str
    kind: str
    both_orders: bool
    price: Price | None
    transports: tuple[str, ...] = ("live",)
    in_process: bool = False
    limits: Limits = Limits()
    sides: tuple[str, str] = ("A", "B")
    choices: tuple[str, ...] = ()
    grades: bool = False
    criteria: tuple[str, ...] = ()
    is_seeded: bool = False
    can_be_challenged: bool = False
    sees: bool = False
    form_known: bool = True
    probe: str = ""

    @property
    def fingerprint(self) -> str:
        """See above."""

    @property
    def template_hash(self) -> str:
        """See above."""

    def prepare(self, sitting: Sitting) -> Any:
        """Find out what the judge can do, once per store; raises JudgeUnavailable where it cannot be reached."""

    def rule(self, questions: Iterable[Question], sitting: Sitting) -> Any:
        """Ask the questions in order, calling ``sitting.record`` with each ruling as it arrives."""

    def size(self, question: Question, price: Price | None) -> Size:
        """What a question takes; nothing for a judge that bills nothing."""
        return Size(0, 0, 0.0)

    def language_of(self, first: Reply, second: Reply | None) -> str:
        """The language in which it is asked about two answers; "" where it tells none apart."""
        return ""

    def clean(self, text: str) -> str:
        """Return `text` without the judge's secrets."""
        return text


_DEFAULTS = (
    "transports", "in_process", "limits", "sides", "choices", "grades", "criteria", "is_seeded", "can_be_challenged",
    "sees", "form_known", "probe", "size", "language_of", "clean",
)  # fmt: skip


def completed(judge: Any) -> Judge:
    """Return a judge of somebody else's making, with the defaults of whatever it leaves out; changes it in place."""
    for name in _DEFAULTS:
        if not hasattr(judge, name):
            value = getattr(Judge, name)
            setattr(judge, name, value.__get__(judge) if callable(value) else value)
    return judge
