"""What a step of an eager engine dispatches, counted in its worker, as ``aad bench --engine vllm --eager`` does."""

from __future__ import annotations

from functools import partial

import pytest

from aad_plugin.speed.counting import worker_counts
from aad_plugin.speed.vllm import COUNTING
from tests.engine.test_composite import decode
from tests.toys import random_prompts

pytestmark = pytest.mark.engine


def test_an_engines_step_is_counted_where_it_runs(toy_engines):
    llm = toy_engines("llama + LoRA", worker_extension_cls=COUNTING)

    def ask(strategy: str, steps: int) -> None:
        decode(llm, random_prompts([9]), max_tokens=steps, ignore_eos=True, extra_args={"aad_strategy": strategy})

    aad, greedy = (worker_counts(llm, partial(ask, strategy)) for strategy in ("aad", "greedy"))
    print(f"aad {aad.operations} operations, {aad.waits} waits; greedy {greedy.operations}, {greedy.waits}")
    assert aad.operations > 20 and aad.waits >= 0
    # Both sides are read whatever a request asks for; what differs are the scores.
    assert greedy.operations < aad.operations < 1.5 * greedy.operations
    assert worker_counts(llm, partial(ask, "aad")) == aad, "counts do not depend on the machine"
