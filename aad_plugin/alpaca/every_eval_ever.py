"""A result as a record of the Every Eval Ever project: one aggregate file and one line per instruction.

The record is checked against that project's own JSON schemas, version 0.3.0 (``schemas/``, MIT licence), before it is
written, and stands where its datastore wants it: ``data/<collection>/<organisation>/<model>/<uuid>.json``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import time
import uuid
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.annotations import OFFICIAL_ANNOTATOR
from aad_plugin.alpaca.export import Submission, judge_label
from aad_plugin.errors import BackendMissing, ConfigError
from aad_plugin.files.whole import write_text
from aad_plugin.judges.statistics.results import share_of

SCHEMA_VERSION = "0.3.0"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_COLLECTION = "alpaca_eval_v2"
_UNKNOWN = {"deployment_type": "unknown", "model_availability": "unknown"}


def write_record(
    submission: Submission, folder: Path, *, model_id: str, organization: str, judging: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write aggregate and samples below `folder`; returns their paths.

    Args:
        model_id: organisation/model, as on the Hugging Face hub. organization: who ran the evaluation.
        judging: ``summary.json`` of the judged run, where it is at hand: names the judge's model and prompt.
    Raises:
        ConfigError: no organisation/model, no organisation, or the record breaks the schema. BackendMissing: no jsonschema.
    """
    if not re.fullmatch(f"{_PART}/{_PART}", model_id) or not organization.strip():
        raise ConfigError(
            "a record needs --model-id ORGANISATION/MODEL and --organization NAME (who ran the evaluation), got "
            f"{model_id!r} and {organization!r}"
        )
    about = judging or {}
    annotator, kind = submission.annotator, submission.wanted.kind
    collection = _COLLECTION if kind != "other" else "aad_plugin_instructions"
    mark = hashlib.sha256(
        json.dumps([model_id, submission.name, submission.annotations], default=str).encode()
    ).digest()
    stem = str(uuid.UUID(bytes=mark[:16], version=4))  # the same result, the same file
    now = f"{time.time():.0f}"
    evaluation = f"{collection}/{model_id}/{now}"
    place = Path("data", collection, *model_id.split("/"))
    results = _results(submission, about, f"{stem}/{annotator}")
    samples = _samples(submission, evaluation, model_id, results[0])
    text = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    aggregate = {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": evaluation,
        "retrieved_timestamp": now,
        "source_metadata": {
            "source_name": "aad_plugin", "source_type": "evaluation_run", "source_organization_name": organization,
            "evaluator_relationship": "other",
            "additional_details": {"judge": judge_label(annotator), "instructions": submission.wanted.label},
        },
        "eval_library": {
            "name": "aad_plugin", "version": metadata.version("aad_plugin"), "additional_details": {"annotator": annotator},
        },
        "model_info": {"name": submission.name, "id": model_id, "developer": model_id.split("/")[0],
                       "additional_details": {**_UNKNOWN, "completions_kwargs": _plain(submission.account)}},
        "evaluation_results": results,
        "detailed_evaluation_results": {
            "format": "jsonl", "file_path": (place / f"{stem}_samples.jsonl").as_posix(), "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(text.encode()).hexdigest(), "total_rows": len(samples),
        },
    }  # fmt: skip
    validate(aggregate, "eval")
    for sample in samples:
        validate(sample, "instance_level_eval")
    files = {
        folder / place / f"{stem}_samples.jsonl": text,
        folder / place / f"{stem}.json": json.dumps(aggregate, indent=2, ensure_ascii=False) + "\n",
    }
    for path, content in files.items():
        write_text(path, content)
    return list(files)


def validate(record: Mapping[str, Any], schema: str) -> None:
    """Check a record against ``eval`` or ``instance_level_eval``.

    Raises:
        ConfigError: the first broken rule and where. BackendMissing: jsonschema is not installed.
    """
    error = next(iter(sorted(_validator(schema).iter_errors(record), key=lambda one: list(map(str, one.path)))), None)
    if error is not None:
        where = "/".join(map(str, error.path)) or "the record"
        raise ConfigError(f"{where} breaks the schema {schema} {SCHEMA_VERSION}: {error.message[:200]}")


@functools.cache
def _validator(schema: str) -> Any:
    try:
        from jsonschema import Draft7Validator
    except ImportError as error:
        raise BackendMissing("a record is checked by jsonschema: pip install 'aad_plugin[alpaca]'") from error
    text = resources.files("aad_plugin.alpaca").joinpath("schemas", f"{schema}.schema.json").read_text(encoding="utf-8")
    return Draft7Validator(json.loads(text))


def _results(submission: Submission, about: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    row = submission.row
    found = [_result(submission, about, f"{name}/win_rate", "win_rate", row.win_rate, row.standard_error)]
    if not math.isnan(row.length_controlled_winrate):
        value, error = row.length_controlled_winrate, row.lc_standard_error
        found.append(_result(submission, about, f"{name}/lc_win_rate", "length_controlled_win_rate", value, error))
    return found


def _result(
    submission: Submission, about: Mapping[str, Any], key: str, metric: str, percent: float, error: float
) -> dict[str, Any]:
    official = submission.annotator == OFFICIAL_ANNOTATOR
    count = {"num_samples": int(submission.row.n_total)}
    errors = {} if math.isnan(error) else {"standard_error": {"value": error / 100, "method": "analytic"}}
    return {
        "evaluation_result_id": key,
        "evaluation_name": "AlpacaEval 2" if official else f"AlpacaEval 2 by {submission.annotator}",
        "source_data": _source_data(submission),
        "metric_config": {
            "evaluation_description": f"{metric} against {submission.annotations[0]['generator_1']}; "
            f"{judge_label(submission.annotator)}; {submission.wanted.label}",
            "metric_id": f"alpaca_eval.{metric}" if official else f"alpaca_eval.{submission.annotator}.{metric}",
            "metric_name": metric.replace("_", " "),
            "metric_kind": "win_rate",
            "metric_unit": "proportion",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0,
            "max_score": 1,
            "llm_scoring": _judge(submission.annotator, about),
        },
        "score_details": {"score": percent / 100, "uncertainty": {**errors, **count}},
        "generation_config": {
            "generation_args": {"prompt_template": submission.account.get("prompt", "")},
            "additional_details": {"completions_kwargs": _plain(submission.account)},
        },
    }  # fmt: skip


def _source_data(submission: Submission) -> dict[str, Any]:
    number = {"samples_number": len(submission.outputs)}
    if submission.wanted.kind == "other":
        return {"dataset_name": submission.wanted.label, "source_type": "other"}
    return {"dataset_name": submission.wanted.label, "source_type": "hf_dataset", "hf_repo": "tatsu-lab/alpaca_eval",
            "hf_split": "test", **number}  # fmt: skip


def _judge(annotator: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Who judged, as far as annotations and ``summary.json`` say."""
    name = str(about.get("judge") or annotator)
    prompt = (
        f"prompt template with hash {about['template_hash']}" if about.get("template_hash") else f"that of {annotator}"
    )
    details = {"judge": judge_label(annotator), "fingerprint": str(about.get("judge_fingerprint") or "")}
    model = {"name": name, "id": name.replace(":", "/", 1), "additional_details": dict(_UNKNOWN)}
    replies = {"models_named_by_replies": ", ".join(about.get("models") or ())}
    return {
        "judges": [{"model_info": model, "additional_details": replies}],
        "input_prompt": prompt,
        "additional_details": details,
    }


def _samples(submission: Submission, evaluation: str, model_id: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for number, row in enumerate(submission.annotations):
        score = share_of(row["preference"])
        if score is None:
            continue  # the aggregate's num_samples says how many there are
        hashed = hashlib.sha256((row["instruction"] + row["output_1"]).encode()).hexdigest()
        found.append(
            {
                "schema_version": SCHEMA_VERSION, "evaluation_id": evaluation, "model_id": model_id,
                "evaluation_name": result["evaluation_name"], "evaluation_result_id": result["evaluation_result_id"],
                "sample_id": str(number), "sample_hash": hashed, "interaction_type": "single_turn",
                "input": {"raw": row["instruction"], "reference": [row["output_1"]]},
                "output": {"raw": [row["output_2"]]}, "messages": None,
                "answer_attribution": [{
                    "turn_idx": 0, "source": "output.raw", "extracted_value": row["output_2"],
                    "extraction_method": "llm_judge", "is_terminal": True,
                }],
                "evaluation": {"score": score, "is_correct": score > 0.5},
            }
        )  # fmt: skip
    return found


def _plain(account: Mapping[str, Any]) -> str:
    return json.dumps(account.get("completions_kwargs") or {}, default=str)
