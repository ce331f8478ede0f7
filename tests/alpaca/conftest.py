"""Fixtures: the command as typed, a set of one's own, loopback servers."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from aad_plugin.cli.main import app
from tests.alpaca.made import references, write
from tests.judges.conftest import loopback

__all__ = ["loopback"]


@pytest.fixture
def aad():
    """``aad alpaca-eval …`` in this process; an error is `result.exception`."""

    def run(*arguments):
        return CliRunner().invoke(app(), ["alpaca-eval", *(str(argument) for argument in arguments)])

    return run


@pytest.fixture
def own_set(tmp_path):
    """A file of 12 instructions with a reference's outputs."""
    return write(tmp_path / "own.json", references())
