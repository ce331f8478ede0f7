"""Two small stock lm-eval tasks on local data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

QUESTIONS = [f"Question {i}: " + "ab cd " * (i % 5 + 1) for i in range(9)]

GENERATE = """
task: toy_generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{a}}}}"
generation_kwargs: {{until: [], max_gen_toks: 12, do_sample: false, temperature: 0.0}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""

CHOOSE = """
task: toy_choose
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: ["yes", "not at all", "maybe"]
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory) -> Path:
    """A folder for --include_path with the tasks toy_generate and toy_choose."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"q": q, "a": "x"}) + "\n" for q in QUESTIONS))
    for name, text in (("generate", GENERATE), ("choose", CHOOSE)):
        (folder / f"{name}.yaml").write_text(text.format(data=data))
    return folder


@pytest.fixture(scope="session")
def evaluate(task_folder):
    """Run simple_evaluate on CPU; returns lm-eval's results with samples."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    def run(model: str, model_args: dict[str, Any], task: str = "toy_generate", **options: Any) -> dict[str, Any]:
        manager = TaskManager(include_path=str(task_folder), include_defaults=False)
        return lm_eval.simple_evaluate(
            model=model,
            model_args=model_args,
            tasks=[task],
            task_manager=manager,
            log_samples=True,
            bootstrap_iters=0,
            **{"device": "cpu", "batch_size": 4, **options},
        )

    return run


def answers(results: dict[str, Any], task: str = "toy_generate") -> list[str]:
    """The first answer to every document, in order."""
    rows = sorted(results["samples"][task], key=lambda row: row["doc_id"])
    return [row["resps"][0][0] for row in rows]


def loglikelihoods(results: dict[str, Any]) -> list[list[float]]:
    """Scores of the choices of every document."""
    rows = sorted(results["samples"]["toy_choose"], key=lambda row: row["doc_id"])
    return [[float(response[0][0]) for response in row["resps"]] for row in rows]
