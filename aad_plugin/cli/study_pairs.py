"""``aad study --pairs``: several pairs over one reference, each studied in a folder of its own, in one table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from aad_plugin.cli.pair_options import NamedPair
from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import write_text
from aad_plugin.sources.parts import PART_NAMES

if TYPE_CHECKING:
    from aad_plugin.study.plan import StudyPlan
    from aad_plugin.study.scoring import Scorer

_TRAINED = re.compile(r"trained with (ORPO|CPO|SimPO)\b")


def find_pairs(named: NamedPair, given: Sequence[str]) -> dict[str, NamedPair]:
    """Return the pairs that a command line names, by name.

    Args:
        named: options of all pairs; a reference among them is every pair's. given: NAME=DIR, or DIR alone;
            several by commas.
    Raises:
        ConfigError: a missing folder, a name twice, or a folder that does not prove its reference.
    """
    parts = {name for name in (*PART_NAMES, "pair", "pretrained") if named.arguments.get(name)}
    if parts - {"reference"}:
        raise ConfigError(f"--pairs names the policies: leave --{min(parts - {'reference'}).replace('_', '-')} out")
    found: dict[str, NamedPair] = {}
    for one in (part for text in given for part in text.split(",") if part):
        name, _, place = one.rpartition("=")
        folder = Path(place).expanduser()
        name = name or folder.name
        if not folder.is_dir():
            raise ConfigError(f"--pairs: no folder {place!r}; expected folders of trained policies, such as NAME=DIR")
        if name in found or "/" in name:
            raise ConfigError(f"--pairs: the name {name!r} stands for two pairs or holds a slash: write NAME=DIR")
        is_adapter = (folder / "adapter_config.json").is_file()
        part = ("adapter" if is_adapter else "policy") if "reference" in parts else "pair"
        found[name] = named.but(**{part: str(folder)})
        found[name].check()
    if len(found) < 2:
        raise ConfigError("--pairs compares several pairs, got one: name at least two folders")
    return found


def run_pairs(
    pairs: dict[str, NamedPair], output: Path, plan: StudyPlan, preferences: Path | None, device: str | None
) -> None:
    """Study every pair and write the table after each; goes on where an earlier run stopped."""
    from aad_plugin.study.pair_table import NamedRow, keep_pairs
    from aad_plugin.study.scoring import Scorer
    from aad_plugin.texts.preferences import read_preferences

    held_out = read_preferences(preferences) if preferences else []
    keep_pairs(output, [NamedRow(name, _note(pair)) for name, pair in pairs.items()])
    scorers = [Scorer(spec, device=device) for spec in plan.scorers]
    for name, pair in pairs.items():
        run_one(pair, output / name, plan, held_out, scorers)
        write_pairs(output)


def run_one(
    pair: NamedPair, folder: Path, plan: StudyPlan, held_out: Sequence[Any] = (), scorers: Sequence[Scorer] = ()
) -> None:
    """Study one pair of a table in its own folder.

    Args:
        held_out: preferences for the implicit reward's accuracy. scorers: the plan's; default fresh ones.
    """
    from aad_plugin.study.decoding import Decoder
    from aad_plugin.study.models import account
    from aad_plugin.study.plan import keep_plan
    from aad_plugin.study.running import run_pair
    from aad_plugin.study.scoring import Scorer

    loaded = pair.load()
    keep_plan(folder, plan, account(plan, loaded, None))
    decoder = Decoder(loaded, None, max_new_tokens=plan.max_new_tokens, batch_size=plan.batch_size)
    run_pair(folder, plan, decoder, scorers or [Scorer(spec) for spec in plan.scorers])
    if held_out:
        _measure(loaded, held_out, folder)


def write_pairs(output: Path) -> None:
    """Write the table of what is there, and print it."""
    from aad_plugin.study.pair_table import write_pair_table

    paths = write_pair_table(output)
    typer.echo(paths[0].read_text(encoding="utf-8"))


def _measure(pair: Any, preferences: Sequence[Any], folder: Path) -> None:
    """Write the implicit reward's accuracy on held-out preferences, once per set of them."""
    from aad_plugin.pair.check import preference_accuracy
    from aad_plugin.study.pair_table import HELD_OUT
    from aad_plugin.texts.messages import digest

    mark = digest([[one.prompt, one.chosen, one.rejected] for one in preferences])[:16]
    path = folder / HELD_OUT
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("preferences") == mark:
        return
    found = preference_accuracy(pair, preferences)
    low, high = found.interval
    said = {"accuracy": found.accuracy, "low": low, "high": high, "n": found.n, "mean_margin": found.mean_margin,
            "length_accuracy": found.length_accuracy, "preferences": mark}  # fmt: skip
    write_text(path, json.dumps(said, indent=1) + "\n")


def _note(pair: NamedPair) -> str:
    """What has to be said of a policy whose training had no reference."""
    folder = pair.arguments.get("adapter") or pair.arguments.get("policy") or pair.arguments.get("pair")
    card = Path(str(folder)) / "README.md"
    match = _TRAINED.search(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    if match is None:
        return ""
    loss = "CPO or SimPO (one trainer)" if match[1] == "CPO" else match[1]
    return f"trained by {loss}, which knows no reference: the model it started from stands in for one"
