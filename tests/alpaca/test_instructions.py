"""AlpacaEval's instructions by their marks: what its difficulties may be used for."""

from __future__ import annotations

import json

import pytest

from aad_plugin.alpaca.instructions import refuse_other_order
from aad_plugin.errors import ConfigError
from aad_plugin.texts.messages import prompt_hash
from tests.public_data import DATA, needs_public_data


@needs_public_data
def test_difficulties_want_alpaca_evals_own_order():
    rows = json.loads((DATA / "alpaca_eval_gpt4_1106_preview_model_outputs.json").read_text())
    prompts = [prompt_hash(row["instruction"]) for row in rows]

    def numbered(found):
        return {str(number): prompt for number, prompt in enumerate(found)}

    refuse_other_order(numbered(prompts))
    refuse_other_order(numbered(prompts[:100]))  # of a part the difficulties are counted elsewhere
    refuse_other_order({str(number): str(number) for number in range(805)})  # a task's documents
    by_text = [prompts[int(number)] for number in sorted(map(str, range(805)))]
    for found, told in (
        (by_text, "and of these 805 prompts all stand in another order: put the rows of the baseline's file into"),
        ([f"other {number}" for number in range(805)], "and of these 805 prompts 0 are AlpacaEval's"),
        ([*prompts[:804], "another"], "804 are AlpacaEval's"),
    ):
        with pytest.raises(ConfigError, match=told):
            refuse_other_order(numbered(found))
