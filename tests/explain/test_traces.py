"""Traces of lm-eval runs: every answer's tokens, in files that outlive a kill and refuse another model."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.explain.explaining import explain
from aad_plugin.explain.records import Step, Token
from aad_plugin.explain.trace_files import AnswerTrace, TraceFolder, TraceWriter, text_hash
from aad_plugin.pair.model import AlignedPair
from tests.harness.conftest import QUESTIONS, answers, evaluate, task_folder

__all__ = ["evaluate", "task_folder"]  # fixtures
TOKEN = Token(1, "x", -0.5, -0.75)


def _text(steps) -> str:
    return "".join(step.chosen.text for step in steps if not step.special)


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [("two_models", "aad"), ("two_adapters", "greedy"), ("two_models", "reference"), ("two_adapters", "best_of_2")],
)
def test_every_answer_of_a_run_has_its_tokens(evaluate, checkpoints, tmp_path, kind, strategy):
    args = {**checkpoints.model_args(kind), "strategy": strategy, "answers_dir": "none"}
    plain = evaluate("aad", args)
    traced = evaluate("aad", {**args, "trace": str(tmp_path / "trace")})
    assert answers(traced) == answers(plain)
    folder = TraceFolder(tmp_path / "trace")
    by_prompt = {trace.prompt_hash: trace for trace in folder}
    pair = AlignedPair.from_pretrained(**checkpoints.model_args(kind))
    assert len(folder) == len(QUESTIONS)
    for row in traced["samples"]["toy_generate"]:
        trace = by_prompt[row["prompt_hash"]]
        assert (trace.task, trace.doc_id) == ("toy_generate", row["doc_id"])
        assert trace.answer_hash == text_hash(row["resps"][0][0])
        steps = folder.steps(trace)
        assert _text(steps) == row["resps"][0][0] and len(steps) <= 12
        alone = explain(pair, QUESTIONS[row["doc_id"]], strategy=strategy, max_new_tokens=12, chat=False)
        assert [step.chosen.id for step in alone.steps] == [step.chosen.id for step in steps]
        for one, other in zip(alone.steps, steps, strict=True):
            assert one.chosen.advantage == pytest.approx(other.chosen.advantage, abs=1e-4)
            assert one.num_plausible == other.num_plausible


def test_the_schema_is_one_row_per_token(evaluate, checkpoints, tmp_path):
    evaluate("aad", {**checkpoints.model_args("two_models"), "trace": str(tmp_path / "trace")})
    table = pq.read_table(tmp_path / "trace")
    assert (
        table.column_names
        == (
            "key task doc_id strategy settings prompt_hash answer_hash step id text log_policy log_reference guide "
            "special favourite_id favourite_text favourite_log_policy favourite_log_reference favourite_guide "
            "num_plausible plausible"
        ).split()
    )
    assert set(table["strategy"].to_pylist()) == {"aad"}
    assert table["settings"][0].as_py() == '{"alpha": 0.1, "strategy": "aad"}'


def test_a_kept_answer_without_its_trace_is_decoded_again_and_one_with_it_is_not(evaluate, checkpoints, tmp_path):
    args, trace = checkpoints.model_args("two_models"), tmp_path / "trace"
    first = answers(evaluate("aad", args))
    assert answers(evaluate("aad", {**args, "trace": str(trace)})) == first
    parts = sorted(trace.iterdir())
    assert len(TraceFolder(trace)) == len(QUESTIONS)
    assert answers(evaluate("aad", {**args, "trace": str(trace)})) == first
    assert sorted(trace.iterdir()) == parts


def test_traces_of_another_model_are_not_mixed(evaluate, checkpoints, tmp_path):
    evaluate("aad", {**checkpoints.model_args("two_models"), "trace": str(tmp_path)})
    with pytest.raises(
        ConfigError, match=r"holds traces of another model \(\w{16}, this one is \w{16}\); pass another"
    ):
        evaluate("aad", {**checkpoints.model_args("two_adapters"), "trace": str(tmp_path)})


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        ("/dev/null/x", "traces cannot be written to /dev/null/x: Not a directory"),
        (True, r"trace is the folder where traces go, got True \(for example trace=runs/trace\)"),
    ],
)
def test_a_folder_that_is_none_is_refused_before_decoding(evaluate, checkpoints, trace, message):
    with pytest.raises(ConfigError, match=message):
        evaluate("aad", {**checkpoints.model_args("two_models"), "trace": trace})


def test_what_is_no_trace_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no traces \(\*\.parquet\), as trace=DIR writes them"):
        TraceFolder(tmp_path)
    (tmp_path / "rank0-00000.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ConfigError, match=r"cannot read the traces in .*rank0-00000.parquet: "):
        TraceFolder(tmp_path)


def test_a_kill_loses_no_written_part(tmp_path):
    writer = TraceWriter(tmp_path, "model", {})
    steps = (Step(TOKEN, TOKEN, (TOKEN,), 1), Step(TOKEN, TOKEN, (), 1, True))
    for number in range(3):
        writer.add(AnswerTrace(str(number), "t", number, "aad", "{}", "p", "a"), steps)
        if number < 2:
            writer.flush()
    (tmp_path / ".rank0-00002.parquet.1").write_bytes(b"torn")
    again = TraceWriter(tmp_path, "model", {})
    assert "0" in again and "1" in again and "2" not in again
    found = TraceFolder(tmp_path)
    assert [found.steps(trace) for trace in found] == [steps, steps]
