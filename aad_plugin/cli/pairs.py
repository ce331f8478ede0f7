"""``aad pairs list | check | save``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli.grammar import Command, Group
from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.errors import ConfigError

app = typer.Typer(
    help="Known pairs; check a pair; save it as a folder.", no_args_is_help=True, rich_markup_mode=None, cls=Group
)


@app.command("list", cls=Command)
def list_pairs() -> None:
    """List the presets."""
    from rich.console import Console
    from rich.table import Column, Table

    from aad_plugin.sources.presets import PRESETS

    table = Table("pair", Column("policy · reference", overflow="fold"), Column("what it is", overflow="fold"))
    for name, preset in PRESETS.items():
        parts = (
            f"{preset.policy}\n{preset.reference}" if preset.policy else "LoRA of this package on SmolLM2-135M-Instruct"
        )
        table.add_row(name, parts, preset.about)
    Console().print(table)


@app.command(cls=Command)
@names_a_pair(positional=True)
def check(
    named: NamedPair,
    preferences: Annotated[
        Path | None, typer.Option(help="JSONL of prompt, chosen, rejected: prints the implicit reward's accuracy.")
    ] = None,
) -> None:
    """Compare vocabularies and weights, estimate memory, measure departures from greedy; ends with a verdict."""
    named.check()
    from rich.console import Console
    from rich.table import Table

    from aad_plugin.judges.statistics.intervals import shown
    from aad_plugin.pair.check import ambiguity, memory, preference_accuracy
    from aad_plugin.pair.same_weights import SAME_WEIGHTS
    from aad_plugin.texts.preferences import read_preferences

    pairs = read_preferences(preferences) if preferences else []
    loaded = named.load()
    if loaded.source.is_alone:
        raise ConfigError(
            "aad pairs check compares a policy with its reference, and this policy was given none: pass reference=… (its "
            "guides were loaded and proven)"
        )
    if loaded.sides.have_same_weights():
        raise ConfigError(SAME_WEIGHTS)
    size, choice = memory(loaded), ambiguity(loaded)
    table = Table("check", "result")
    for name, said in _weighed(loaded, size):
        table.add_row(name, said)
    table.add_row("proof", _proof(loaded.proof))
    table.add_row(
        "filter",
        f"{choice.single:.0%} of {choice.steps} steps have one plausible token (alpha {loaded.settings.alpha}); "
        f"{choice.departures:.0%} differ from greedy",
    )
    table.add_row("dtype", _other_dtype(loaded, named, size.policy + size.reference_extra + size.guides))
    console = Console()
    warning = ""
    if pairs:
        found = preference_accuracy(loaded, pairs)
        quartiles = ", ".join(f"{value:.2f}" for value in found.quartiles)
        table.add_row(
            "implicit reward",
            f"accuracy {shown(found.accuracy, *found.interval)} on {found.n} pairs; margin {found.mean_margin:.2f} "
            f"nats in the mean, quartiles {quartiles}; the longer answer is the chosen one in {found.length_accuracy:.3f}",
        )
        if found.near_chance:
            warning = (
                "warning: the implicit reward orders these preferences no better than chance. Is the reference the very "
                "model the policy was tuned from, and are these preferences of the kind it was tuned on?"
            )
        if found.reversed:
            warning = (
                "warning: the implicit reward prefers the rejected answers. Are policy and reference swapped, or chosen "
                "and rejected?"
            )
    console.print(table)
    if warning:
        typer.echo(warning, err=True)
    typer.echo(_verdict(choice, None if not pairs else found))


def _other_dtype(loaded: Any, named: NamedPair, size: int) -> str:
    """Say how many of the pair's choices fall otherwise in float32, or of a float32 pair in bfloat16."""
    import torch

    from aad_plugin.errors import AADError, first_line
    from aad_plugin.pair.check import changed_choices
    from aad_plugin.pair.rounding import coarsest_dtype

    dtype = coarsest_dtype(loaded.sides.models().values())
    other = torch.bfloat16 if dtype == torch.float32 else torch.float32
    own_name, other_name = (str(one).removeprefix("torch.") for one in (dtype, other))
    needed = size * other.itemsize // dtype.itemsize
    if needed > _free_bytes(loaded.device):
        return f"{own_name}; how often {other_name} chooses otherwise needs {needed / 2**30:.1f} GiB more than are free"
    try:
        share, steps = changed_choices(loaded, named.but(dtype=other_name).load())
    except AADError as error:
        return f"{own_name}; how often {other_name} chooses otherwise is unknown: {first_line(error)}"
    return f"{own_name}; {other_name} chooses otherwise at {share:.1%} of {steps} steps of its answers"


def _free_bytes(device: Any) -> int:
    import psutil
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _weighed(loaded: Any, size: Any) -> Iterator[tuple[str, str]]:
    """What a pair is made of and what it takes of the memory, in words."""
    yield from loaded.source.parts().items()
    yield "reference is known from", loaded.source.proof
    yield "shared token ids", f"{loaded.vocab_size:,}, maps equal"
    yield (
        "weights",
        f"policy {size.policy / 2**20:,.0f} MiB, the reference adds {size.reference_extra / 2**20:,.0f} MiB",
    )
    if loaded.guides.members:
        own = f"{size.guides / 2**20:,.0f} MiB of their own" if size.guides else "no weights of their own but adapters'"
        yield "guides", f"{len(loaded.guides.members)}, token ids equal, {own}"
    per_token = size.cache_per_token
    unknown = "unknown: the configuration does not tell"
    yield "cache per token", unknown if per_token is None else f"{per_token / 2**10:,.1f} KiB for both"


def _verdict(choice: Any, found: Any) -> str:
    """Say in one sentence whether the pair is fit for AAD, as far as was looked."""
    if choice.departures == 0:
        return "verdict: of no use, AAD answers as greedy decoding does; is the reference the policy itself?"
    if found is not None and found.near_chance:
        return "verdict: doubtful, the implicit reward does not order the preferences; check the reference"
    if found is not None and found.reversed:
        return (
            "verdict: the wrong way round, the implicit reward prefers the rejected answers; swap policy and reference"
        )
    changes = f"departs from greedy at {choice.departures:.0%} of steps"
    if found is None:
        return f"verdict: the pair works, AAD {changes}; whether the reference is the right one --preferences FILE can tell"
    return (
        f"verdict: fit for AAD, which {changes}, and the implicit reward orders {found.accuracy:.0%} of the preferences"
    )


def _proof(proof: Any) -> str:
    """Say what a pair has proven of itself."""
    avoided = "".join(f"; not taken: {one}" for one in proof.avoided)
    return f"{proof.status}: decodes by the path {proof.path!r}{avoided}"


@app.command(cls=Command)
@names_a_pair
def save(
    named: NamedPair,
    output: Annotated[Path, typer.Argument(help="Folder to write.")],
    expo: Annotated[
        bool,
        typer.Option(
            "--expo", help="Write one model instead: θ_policy + scale · (θ_policy − θ_reference), for any host."
        ),
    ] = False,
    expo_scale: Annotated[float | None, typer.Option(help="Of --expo; default 0.5.")] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="With --expo: a full checkpoint also where an adapter would do.")
    ] = False,
) -> None:
    """Write a pair folder (configuration, adapters, pointers to checkpoints; no copied weights), or one model of it."""
    from aad_plugin.sources.arguments import take_settings, take_source, typed
    from aad_plugin.sources.folder import refuse_unkept, write_pair_folder

    arguments = dict(named.arguments)
    source = take_source(arguments)
    dtype = str(arguments.pop("dtype", "auto")) if expo else "auto"
    typed({"dtype": dtype})
    settings = take_settings(arguments, source.settings).override(expo_scale=expo_scale)
    if not expo:
        refuse_unkept(arguments)
        if whole:
            raise ConfigError("--whole says how --expo writes its model: add --expo, or leave it out")
        typer.echo(f"saved {write_pair_folder(source, settings, output)}; load it with pair={output}")
        return
    from aad_plugin.sources.extrapolating import save_expo

    # Refuses what is left, revisions among it: weights are extrapolated from the main checkpoints.
    settings = settings.override(**arguments)
    kind = save_expo(source, settings.expo_scale, output, dtype=dtype, whole=whole)
    where = f"an adapter on {source.base}" if kind == "adapter" else "a checkpoint"
    typer.echo(f"saved {output}, {where} at expo_scale {settings.expo_scale:g}; any host loads it without this package")
