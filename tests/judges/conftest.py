"""Fixtures of the judge tests: comparisons with made-up texts, and loopback servers."""

from __future__ import annotations

import pytest

from aad_plugin.judges import Comparison
from tests.judges.loopback import Loopback, serving


def made_up(num: int, words: int = 12) -> list[Comparison]:
    """Comparisons whose texts differ; answers grow with the number so that lengths vary."""
    return [
        Comparison(str(i), f"Question {i}?", f"First reply {i} " + "good " * (i % words), f"Second reply {i} to it")
        for i in range(num)
    ]


@pytest.fixture
def loopback():
    """Start servers: ``url, state = loopback(judge="position")``; all end with the test."""
    from contextlib import ExitStack

    with ExitStack() as servers:

        def start(**settings) -> tuple[str, Loopback]:
            state = Loopback(**settings)
            return servers.enter_context(serving(state)), state

        yield start
