"""``aad tasks``: what this package can evaluate."""

from __future__ import annotations

from typing import Annotated

import typer


def tasks(
    data_dir: Annotated[str | None, typer.Option(help="Folder of local data files; default $AAD_DATA_DIR.")] = None,
) -> None:
    """List this package's lm-eval tasks, and whether their data is available on this machine."""
    import sys

    from rich.console import Console
    from rich.table import Column, Table

    from aad_plugin.rivals.catalogue import entries
    from aad_plugin.tasks.data import reachable

    names = ("task", "kind", "source", "licence", "documents", "answer tokens", "rivals", "data now")
    table = Table(*(Column(name, overflow="fold") for name in names))
    for entry in entries():
        now = reachable(entry.data, data_dir) if entry.data else "part of the package"
        rivals, budget = ", ".join(entry.rivals), str(entry.budget)
        cells = (entry.name, entry.kind, entry.source, entry.licence, entry.documents, budget, rivals, now)
        if sys.stdout.isatty():
            table.add_row(*cells)
        else:
            print("\t".join(cells))  # for grep and cut
    if sys.stdout.isatty():
        Console().print(table)
