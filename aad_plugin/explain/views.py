"""An explanation on the screen and as a page: a coloured reading of the answer and the departures that mattered most."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aad_plugin.explain.records import Explanation, Step, Token

if TYPE_CHECKING:
    from rich.console import Console

_FULL_COLOUR = 1.0  # nats
_SHOWN_DEPARTURES = 12
_NEAR_TIE = "within one rounding step of {}: a near tie, which float32 or a batch of another size may decide otherwise"
_UP, _DOWN = (31, 157, 85), (214, 69, 69)


def print_explanation(explanation: Explanation, console: Console) -> None:
    """Print the answer coloured by advantage, its figures, the main departures and greedy's answer."""
    from rich.rule import Rule
    from rich.text import Text

    console.print(Rule(_title(explanation), align="left"))
    reading = Text()
    for step in explanation.steps:
        reading.append(_visible(step.chosen.text), style=_style(step))
    console.print(reading)
    console.print()
    console.print(Text(_about(explanation)))
    console.print(Text("green: advantage above 0, red: below, full colour from 1 nat; underlined: not greedy's choice"))
    departures = explanation.departures()
    if departures:
        console.print(_table(departures[:_SHOWN_DEPARTURES], len(departures)))
    if any(step.near_tie for _, step in departures[:_SHOWN_DEPARTURES]):
        console.print(Text(f"~ {_NEAR_TIE.format(explanation.dtype)}"))
    if explanation.greedy is not None:
        console.print(Rule("greedy answer of the policy", align="left"))
        same = explanation.greedy == explanation.answer
        console.print(Text("the same" if same else _visible(explanation.greedy)))


def write_explanation(explanation: Explanation, path: Path) -> None:
    """Write the self-contained page.

    Raises:
        ConfigError: the file cannot be written.
    """
    from aad_plugin.pages.page import write_page

    data = {
        "prompt": explanation.prompt,
        "pictures": [[picture.data, f"{picture.name}, {picture.digest}"] for picture in explanation.pictures],
        "title": _title(explanation),
        "pair": explanation.pair,
        "made": ", ".join(filter(None, (explanation.dtype, f"aad_plugin {metadata.version('aad_plugin')}"))),
        "about": _about(explanation),
        "greedy": explanation.greedy,
        "near_tie": _NEAR_TIE.format(explanation.dtype),
        "steps": compact_steps(explanation.steps),
    }
    scripts = ["vendor/d3.min.js", "vendor/plot.min.js", "tokens.js", "explain.js"]
    write_page(path, "explain.html", data, styles=["base.css"], scripts=scripts)


def compact_steps(steps: Iterable[Step], max_plausible: int | None = None) -> list[list[Any]]:
    """Return steps in the short form the pages read (see ``tokens.js``), at most so many plausible tokens each."""
    rows = []
    for step in steps:
        chosen = step.chosen
        # A set of one is the chosen token itself: nothing to show.
        shown = step.plausible[:max_plausible] if step.num_plausible > 1 else ()
        rows.append(
            [
                chosen.text,
                round(chosen.advantage, 4),
                round(chosen.log_policy, 4),
                step.favourite.text if step.departs else 0,
                round(step.gain, 4),
                int(step.special),
                [
                    [token.text, round(token.log_policy, 4), round(token.advantage, 4), *_guide(token)]
                    for token in shown
                ],
                step.num_plausible,
                int(step.near_tie),
                *_guide(chosen),
            ]
        )
    return rows


def _guide(token: Token) -> list[float]:
    return [] if token.guide is None else [round(token.guide, 4)]


def _title(explanation: Explanation) -> str:
    return "given answer" if explanation.given else f"answer by {explanation.settings['strategy']}"


def _about(explanation: Explanation) -> str:
    steps = explanation.steps
    departs = sum(step.departs for step in steps)
    ends = (
        "" if explanation.truncated is None else (", budget used up" if explanation.truncated else ", ended by itself")
    )
    settings = ", ".join(f"{name} {value}" for name, value in explanation.settings.items() if value is not None)
    return (
        f"{len(steps)} tokens{ends}; implicit reward Σ log π_policy − log π_reference = {explanation.reward:+.3f} nats; "
        f"{departs} departures from greedy, {sum(step.near_tie for step in steps)} of them near ties "
        f"({', '.join(filter(None, (settings, explanation.dtype)))})"
    )


def _table(departures: list[tuple[int, Step]], total: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    title = f"departures that mattered most ({len(departures)} of {total})"
    table = Table(title=title, title_justify="left")
    for name in ("token", "chosen", "instead of"):
        table.add_column(name)
    for name in ("gain", "advantage", "π_policy", "π_ref.", "of"):
        table.add_column(name, justify="right")
    is_guided = any(step.chosen.guide is not None for _, step in departures)
    if is_guided:
        table.add_column("guides", justify="right")
    for number, step in departures:
        chosen = step.chosen
        guide = [f"{chosen.guide:+.3f}" if chosen.guide is not None else ""] if is_guided else []
        table.add_row(
            str(number + 1),
            Text(repr(_visible(chosen.text))),
            Text(repr(_visible(step.favourite.text))),
            f"{'~ ' if step.near_tie else ''}{step.gain:+.3f}",
            f"{chosen.advantage:+.3f}",
            f"{math.exp(chosen.log_policy):.4f}",
            f"{math.exp(chosen.log_reference):.4f}",
            str(step.num_plausible),
            *guide,
        )
    return table


def _style(step: Step) -> str:
    weight = min(1.0, abs(step.chosen.advantage) / _FULL_COLOUR)
    red, green, blue = (round(255 + weight * (c - 255)) for c in (_UP if step.chosen.advantage >= 0 else _DOWN))
    return f"black on rgb({red},{green},{blue})" + (" underline bold" if step.departs else "")


def _visible(text: str) -> str:
    """The text with control characters as their pictures: a terminal would obey them."""
    pictured = (
        chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else "\u2421" if 127 <= ord(c) < 160 else c
        for c in text
    )
    return "".join(pictured).encode("utf-8", "replace").decode()
