"""`aad judges list`: judges by name, with what was measured of them."""

from __future__ import annotations

import typer

from aad_plugin.cli.grammar import Command, Group

app = typer.Typer(help="Judges by name.", no_args_is_help=True, rich_markup_mode=None, cls=Group)


@app.callback()
def _about() -> None:
    """Judges by name: --judge preset:<name>."""


@app.command("list", cls=Command)
def list_judges() -> None:
    """List the presets: what they are, their price, and how good they were measured to be."""
    from rich.console import Console
    from rich.table import Column, Table

    from aad_plugin.judges.presets.presets import preset_names, read_preset

    table = Table(
        "--judge", Column("judge", overflow="fold"), "price per million tokens", Column("quality", overflow="fold"),
        Column("what it is", overflow="fold"),
    )  # fmt: skip
    for name in preset_names():
        preset = read_preset(name)
        price = preset.options.get("price")
        about = preset.about
        if preset.gone:
            about += "; GONE since {since}, {stands_in} stands in".format_map(preset.gone)
        money = "/".join(f"{one:g}" for one in price) if price else "none" if preset.kind != "openai" else "unknown"
        table.add_row(f"preset:{name}", f"{preset.kind}:{preset.judge}", money, preset.quality, about)
    Console(markup=False).print(table)
