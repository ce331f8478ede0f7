"""Export as a record of the Every Eval Ever project: valid by its schemas, in the place its datastore wants."""

from __future__ import annotations

import builtins
import hashlib
import json

import pytest

from aad_plugin.alpaca import every_eval_ever
from aad_plugin.alpaca.every_eval_ever import validate
from aad_plugin.errors import BackendMissing, ConfigError
from tests.alpaca.made import NUM, outputs, write


@pytest.fixture
def given(aad, own_set, tmp_path, loopback):
    url, _ = loopback()
    made = write(tmp_path / "gen" / "model_outputs.json", outputs("mine"))
    judge = ["--judge", "openai:planted", "--base-url", url, "--output", tmp_path / "judged"]
    assert aad("annotate", "--outputs", made, "--reference", own_set, *judge).exit_code == 0
    return ["export", "--to", "every-eval-ever", "--outputs", made, "--annotations", tmp_path / "judged/annotations.json",
            "--instructions", own_set, "--output", tmp_path / "eee"]  # fmt: skip


def test_a_record_is_valid_and_complete(aad, given, tmp_path):
    named = ["--model-id", "somebody/mine", "--organization", "Somebody"]
    done = aad(*given, *named)
    assert done.exit_code == 0, done.output
    (aggregate_path,) = (tmp_path / "eee").rglob("*.json")
    (samples_path,) = (tmp_path / "eee").rglob("*_samples.jsonl")
    assert aggregate_path.parent == tmp_path / "eee/data/aad_plugin_instructions/somebody/mine" == samples_path.parent
    assert samples_path.stem == f"{aggregate_path.stem}_samples"
    aggregate = json.loads(aggregate_path.read_text())
    samples = [json.loads(line) for line in samples_path.read_text().splitlines()]
    validate(aggregate, "eval")
    (result,) = aggregate["evaluation_results"]
    summary = json.loads((tmp_path / "judged/summary.json").read_text())
    assert result["score_details"]["score"] == pytest.approx(summary["win_rate"])
    (judge,) = result["metric_config"]["llm_scoring"]["judges"]
    assert judge["model_info"]["id"] == "openai/planted"
    assert "NOT AlpacaEval 2's official one" in result["metric_config"]["evaluation_description"]
    assert "not AlpacaEval's instructions" in result["source_data"]["dataset_name"]
    detail = aggregate["detailed_evaluation_results"]
    assert detail["total_rows"] == NUM == len(samples)
    assert detail["checksum"] == hashlib.sha256(samples_path.read_bytes()).hexdigest()
    for sample in samples:
        validate(sample, "instance_level_eval")
        assert sample["evaluation_result_id"] == result["evaluation_result_id"]
    assert sum(s["evaluation"]["score"] for s in samples) / NUM == pytest.approx(summary["win_rate"])
    assert aad(*given, *named).exit_code == 0 and len(list((tmp_path / "eee").rglob("*.json"))) == 1


@pytest.mark.parametrize("named", [[], ["--model-id", "x/y"], ["--model-id", "a/b/c", "--organization", "S"]])
def test_who_is_evaluated_and_by_whom_must_be_said(aad, given, named):
    with pytest.raises(ConfigError, match=r"a record needs --model-id ORGANISATION/MODEL and --organization NAME"):
        raise aad(*given, *named).exception


def test_a_broken_record_is_named():
    with pytest.raises(ConfigError, match=r"the record breaks the schema eval 0.3.0: 'schema_version' is a required"):
        validate({}, "eval")


def test_without_jsonschema_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **more):
        if name == "jsonschema":
            raise ImportError(name)
        return real(name, *rest, **more)

    every_eval_ever._validator.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(BackendMissing, match=r"is checked by jsonschema: pip install 'aad_plugin\[alpaca\]'"):
        validate({}, "eval")
