"""best_of_n on vLLM: one scoring call per model however many documents, and the picked answer's own end."""

from __future__ import annotations

import dataclasses

import pytest

from aad_plugin.harness.answer_store import is_truncated
from aad_plugin.harness.neutral_options import NEUTRAL
from aad_plugin.harness.task_host import generate_request
from tests.harness.conftest import QUESTIONS

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("two_threads")]

ASKED = {"strategy": "best_of_3", "until": [".", "\n"], "max_gen_toks": 16, "seed": 5}


@pytest.fixture
def watched(demo_model, run_folder, monkeypatch):
    """The demo engine with a list of (generate, number of prompts, their outputs) of its calls."""
    calls = []
    own = demo_model._model_generate

    def generate(requests, generate=False, sampling_params=None):
        outputs = own(requests, generate, sampling_params)
        calls.append((generate, outputs))
        return outputs

    monkeypatch.setattr(demo_model, "_model_generate", generate)
    return demo_model, calls


def answered(model) -> list:
    return model.generate_until([generate_request(text, dict(ASKED)) for text in QUESTIONS], disable_tqdm=True)


def test_all_candidates_are_scored_in_one_call_per_model(watched):
    model, calls = watched
    answers = answered(model)
    scoring = [outputs for generate, outputs in calls if not generate]
    assert [len(outputs) for outputs in scoring] == [3 * len(QUESTIONS)] * 2
    drawn = [outputs for generate, outputs in calls if generate]
    assert [len(outputs) for outputs in drawn] == [3 * len(QUESTIONS)]
    assert answered(model) == answers and len(calls) == 3, "kept answers are not scored again"


def test_a_request_alone_gets_the_answer_that_it_gets_among_others(watched, tmp_path, monkeypatch):
    model, _ = watched
    together = answered(model)
    monkeypatch.setenv("AAD_OUTPUT_DIR", str(tmp_path / "alone"))
    alone = [model.generate_until([generate_request(text, dict(ASKED))], disable_tqdm=True)[0] for text in QUESTIONS]
    assert alone == together


def test_the_picked_answers_end_is_recorded_and_survives_a_resume(watched):
    model, calls = watched
    answers = answered(model)
    ends = {}
    for output in next(outputs for generate, outputs in calls if generate):
        text = output.outputs[0].text
        for stop in ASKED["until"]:
            text = text.split(stop)[0]
        ends.setdefault(text, set()).add(output.outputs[0].finish_reason == "length")
    assert all(is_truncated(answer) in ends[str(answer)] for answer in answers)
    assert {is_truncated(answer) for answer in answers} <= {True, False}
    again = answered(model)
    assert [is_truncated(answer) for answer in again] == [is_truncated(answer) for answer in answers]


def test_every_engine_argument_is_in_the_key_or_listed_with_a_reason(demo_model):
    from vllm.engine.arg_utils import EngineArgs

    from aad_plugin.harness.arguments import PairArguments

    plain = {"policy": "a", "reference": "b"}
    before = PairArguments.parse(None, None, plain).telling
    taken = [field.name for field in dataclasses.fields(EngineArgs) if field.name not in ("dtype", "model")]
    for name in taken:
        if name not in NEUTRAL:
            assert PairArguments.parse(None, None, {**plain, name: "other"}).telling != before, name
    assert demo_model.model_account()["arguments"]["max_model_len"] == 1024
