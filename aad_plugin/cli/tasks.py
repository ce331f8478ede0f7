"""``aad tasks``: what this package can evaluate."""

from __future__ import annotations


def tasks() -> None:
    """List this package's lm-eval tasks."""
    from rich.console import Console
    from rich.table import Column, Table

    from aad_plugin.harness.catalogue import entries

    names = ("task", "source", "licence", "split", "documents", "rivals", "data")
    table = Table(*(Column(name, overflow="fold") for name in names))
    for entry in entries():
        table.add_row(
            entry.name,
            entry.source,
            entry.licence,
            entry.split,
            str(entry.documents),
            ", ".join(entry.rivals),
            entry.data,
        )
    Console().print(table)
