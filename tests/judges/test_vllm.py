"""One request file, answered live by a vLLM server and by a batch run: the same verdicts.

In CI the already served demo pair is the judge; plain vLLM, whose logits are log-probabilities, is asked by the grid.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from aad_plugin.demo.assets import base_model_path
from aad_plugin.judges import compare, load_judge, summarize
from tests.engine.serving import ENVIRONMENT, judge_items, listening

pytestmark = pytest.mark.engine

PYTHON = os.environ.get("AAD_VLLM_PYTHON", sys.executable)
ENGINE = ["--dtype", "float32", "--max-model-len", "2048", "--served-model-name", "smol"]


def rulings(live, batch):
    """Pairs of p(first better), one per order that both could read."""
    assert [verdict.reason for verdict in live] == [verdict.reason for verdict in batch]
    return [(a, b) for one, two in zip(live, batch, strict=True) for a, b in zip(one.orders, two.orders, strict=True)]


def test_a_served_pair_judges_live_as_from_a_file(served_demo, batch, tmp_path):
    items = judge_items()
    live = compare(
        items, load_judge("openai:aad-reference", base_url=served_demo, form="json"), tmp_path, progress=False
    )
    judge = load_judge("openai:aad-reference", form="json")
    filed = compare(items, judge, batch.judge_folder, progress=False, transport="file")
    assert all(verdict.judged and set(verdict.orders) <= {0.0, 0.5, 1.0} for verdict in live)
    pairs = rulings(live, filed)
    assert len(pairs) == 2 * len(items) and all(a == b for a, b in pairs)


@pytest.mark.grid
def test_live_and_run_batch_give_the_same_verdicts(tmp_path):
    items = judge_items()
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(base_model_path()), *ENGINE]
    with listening(command) as served:
        judge = load_judge("openai:smol", base_url=served)
        live = compare(items, judge, tmp_path / "live", progress=False)
        assert judge.form == "logprobs"
        last_resort = compare(items[:2], load_judge("openai:smol", base_url=served, form="json"), progress=False)
    assert all(v.judged and set(v.orders) <= {0.0, 0.5, 1.0} for v in last_resort)

    folder = tmp_path / "file"
    compare(items, load_judge("openai:smol"), folder, progress=False, transport="file")
    command = [PYTHON, "-m", "vllm.entrypoints.openai.run_batch", "--model", str(base_model_path()), *ENGINE]
    files = ["-i", str(folder / "requests.jsonl"), "-o", str(folder / "results.jsonl")]
    subprocess.run([*command, *files], check=True, env=ENVIRONMENT, timeout=500)
    batch = compare(items, load_judge("openai:smol"), folder, progress=False, transport="file")

    pairs = rulings(live, batch)
    assert len(pairs) >= 10  # a model this small does not always reply with a letter
    assert max(abs(a - b) for a, b in pairs) < 1e-3
    print(f"largest difference over {len(pairs)} rulings: {max(abs(a - b) for a, b in pairs):.2e}")
    assert abs(summarize(live).win_rate - summarize(batch).win_rate) < 1e-3
