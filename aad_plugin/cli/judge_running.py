"""How `aad judge` has its judges judge: one judge, a jury, a jury that takes turns, a cascade; and what that would cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from aad_plugin.cli import judge_files as read
from aad_plugin.errors import AADError, ConfigError, nearest

JURIES = ("all", "cyclic")


@dataclass(frozen=True)
class Running:
    """How a run judges.

    Args:
        judges: loaded. output: of the store. seed, repeats, challenge: as for `compare`. jury: "all" or "cyclic".
        sitting: transport, results, max_cost, poll_s.
    """

    judges: list[Any]
    output: Path | None
    seed: int = 0
    repeats: int = 0
    challenge: bool = False
    jury: str = "all"
    sitting: dict[str, Any] = field(default_factory=dict)

    def check(self, items: list[Any]) -> None:
        """Refuse what cannot be judged so, before any judge is asked, and paid, for it.

        Raises:
            ConfigError: says what.
        """
        from aad_plugin.judges.sitting.judging import check_challenge

        if self.jury not in JURIES:
            raise ConfigError(f"--jury is {' or '.join(JURIES)}, got {self.jury!r}{nearest(self.jury, JURIES)}")
        if self.jury == "cyclic" and len(self.judges) < 2:
            raise ConfigError("--jury cyclic deals prompts out among several judges: pass --judge more than once")
        if self.jury == "cyclic" and self.sitting["max_cost"] is not None:
            raise ConfigError(
                "--max-cost may stop one judge of a cyclic jury before the others, whose mean would then stand for all: "
                "leave it out (--estimate says what it would cost), or deal fewer prompts"
            )
        read.check_run(items, self.judges, self.repeats, self.sitting["transport"], self.sitting["max_cost"])
        if self.jury != "cyclic":  # which asks each judge about prompts of its own
            _refuse_twins(self.judges)
        if self.challenge and len(self.judges) > 1:
            raise ConfigError("--challenge measures one judge: pass --judge once")
        for one in self.judges if self.challenge else ():
            check_challenge(one)

    def verdicts(self, items: list[Any]) -> list[Any]:
        """Judge; blocks on the judges."""
        from aad_plugin.judges import jury_verdicts
        from aad_plugin.judges.statistics.cyclic_jury import cyclic_verdicts

        names = self._names()
        if self.jury == "cyclic":
            dealt = self._dealt(items, names)
            shares = {
                name: [item for item, dealt_to in zip(items, dealt, strict=True) if dealt_to == name] for name in names
            }
            by_judge = self._by_each(shares)
            return cyclic_verdicts(by_judge, [item.id for item in items])
        by_judge = self._by_each(dict.fromkeys(names, items))
        return jury_verdicts(by_judge) if len(self.judges) > 1 else next(iter(by_judge.values()))

    def kept(self, items: list[Any]) -> list[Any]:
        """Verdicts of what the store holds after a run that ended early; none for a jury or an unused store."""
        from aad_plugin.judges.sitting.judging import stored_verdicts

        if len(self.judges) > 1 or self.output is None or not (self.output / "store.jsonl").exists():
            return []
        verdicts = stored_verdicts(
            items, self.judges[0], self.output, seed=self.seed, repeats=self.repeats, challenge=self.challenge
        )
        return verdicts if any(v.models for v in verdicts) else []

    def verdicts_or_kept(self, items: list[Any], finish: Any) -> list[Any]:
        """Verdicts; of a run that ends early, what is kept is handed to `finish` before its error goes on."""
        try:
            return self.verdicts(items)
        except (AADError, KeyboardInterrupt):
            with suppress(AADError):  # what ended the run is what has to be said
                if kept := self.kept(items):
                    finish(kept)
            raise

    def num_prompts(self, items: list[Any]) -> int:
        """Prompts that differ, whichever judge gets which."""
        from aad_plugin.judges.sitting.plan import Plan

        return Plan(items, self.judges[0]).num_prompts

    def print_estimates(self, items: list[Any], prompts: int, share: float = 1.0) -> None:
        """Print what each judge would be asked and cost; asks nothing. See `estimate` for `prompts` and `share`."""
        names = self._names()
        dealt = self._dealt(items, names) if self.jury == "cyclic" else []
        for name, one in zip(names, self.judges, strict=True):
            own = [item for item, to in zip(items, dealt, strict=True) if to == name] if dealt else items
            self._print_estimate(own, one, prompts, share)

    def _print_estimate(self, items: list[Any], one: Any, prompts: int, share: float) -> None:
        from aad_plugin.judges.sitting.estimate import estimate

        found = estimate(
            items, one, self.output, transport=self.sitting["transport"], seed=self.seed, repeats=self.repeats,
            challenge=self.challenge, prompts=prompts, share=share,
        )  # fmt: skip
        money = "unknown (pass --price)" if found.cost is None else f"{found.cost:.4f}, at most {found.most_cost:.4f}"
        unsure = (
            "" if found.form_known else " (in the dearest form of reply: the judge was not asked yet which it knows)"
        )
        shown = "" if math.isnan(found.detectable) else (
            f"; smallest detectable win-rate difference from one half: {100 * found.detectable:.1f} points (5 % level, "
            "power 80 %)"
        )  # fmt: skip
        typer.echo(
            f"{found.judge}: {found.num_items} items, {found.requests} requests, about {found.prompt_tokens} prompt "
            f"and {found.completion_tokens} completion tokens, cost {money}{unsure}{shown}"
        )

    def _dealt(self, items: list[Any], names: list[str]) -> list[str]:
        """The judge of each item of a cyclic jury; one question about two pictures is two prompts."""
        from aad_plugin.judges.sitting.pictures import marks_of
        from aad_plugin.judges.statistics.cyclic_jury import deal
        from aad_plugin.texts.messages import shown_hash

        marks = [marks_of(item.pictures, f"item {item.id!r}") for item in items]
        own = [shown_hash(item.prompt, shown) for item, shown in zip(items, marks, strict=True)]
        return deal(items, names, self.seed, own)

    def _names(self) -> list[str]:
        """Names of the judges, told apart where two share one."""
        names: list[str] = []
        for number, one in enumerate(self.judges, start=1):
            names.append(one.name if one.name not in names else f"{one.name} ({number})")
        return names

    def _by_each(self, shares: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Each judge's verdicts on its items, by name."""
        found: dict[str, list[Any]] = {}
        billed: set[str] = set()  # two servers of one model share what finds out the form of reply: it is paid once
        for number, (name, one) in enumerate(zip(self._names(), self.judges, strict=True), start=1):
            found[name] = self._by_one(shares[name], one, billed)
            if self.jury != "cyclic":
                _refuse_twins(self.judges[:number])  # two forms of reply may have been found out to be one
        return found

    def _by_one(self, items: Sequence[Any], one: Any, billed: set[str]) -> list[Any]:
        from aad_plugin.judges import compare, grade

        terms = self.sitting | {"transport": read.transport_of(self.sitting["transport"], one, self.judges)}
        terms["billed"] = billed
        if terms["max_cost"] is not None:
            terms["max_cost"] /= len(self.judges)
        if one.kind == "pairwise":
            return compare(
                items, one, self.output, seed=self.seed, repeats=self.repeats, challenge=self.challenge, **terms
            )
        return grade(items, one, self.output, seed=self.seed, **terms)


def _refuse_twins(judges: Sequence[Any]) -> None:
    """Refuse two judges that share every verdict: the second would never be asked, and would agree with the first."""
    seen: dict[str, str] = {}
    for one in judges:
        if one.fingerprint in seen:
            raise ConfigError(
                f"{seen[one.fingerprint]} and {one.name} are one judge (same model, parameters, template and form of "
                "reply; an address is no difference): pass it once, or have each server call its model by another name"
            )
        seen[one.fingerprint] = one.name
