"""``aad synthesize --engine vllm``: where nothing is drawn the pairs of ``--engine hf``, else draws keyed by prompt."""

from __future__ import annotations

import json

import pytest

from aad_plugin.synthesis import synthesizing
from aad_plugin.synthesis.filters import Limits
from aad_plugin.synthesis.synthesizing import Recipe, synthesize
from aad_plugin.texts.prompts import PromptSet

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("two_threads")]

PROMPTS = PromptSet(
    tuple(
        [{"role": "user", "content": text}] for text in ("How do I boil an egg?", "Why is the sky blue?", "Say hello.")
    ),
    "here",
)


def made(folder, engine, rejected, prompts=PROMPTS):
    arguments = {"pair": "demo", "dtype": "float32", **({"device": "cpu"} if engine == "hf" else {})}
    recipe = Recipe(rejected, {"seed": 5}, 12, Limits(keep_truncated=True))
    done = synthesize(folder, prompts, recipe, model_args=arguments, engine=engine, batch_size=3)
    return [json.loads(line) for line in done.jsonl.read_text().splitlines()]


def test_both_engines_make_the_same_pairs(demo_model, monkeypatch, tmp_path):
    ours = made(tmp_path / "hf", "hf", "greedy")
    monkeypatch.setattr(synthesizing, "load_model", lambda *_: demo_model)
    assert made(tmp_path / "vllm", "vllm", "greedy") == ours
    assert "| engine, dtype | vllm, float32 |" in (tmp_path / "vllm" / "dataset" / "README.md").read_text()


def test_a_draw_belongs_to_its_prompt_and_not_to_the_run(demo_model, monkeypatch, tmp_path):
    monkeypatch.setattr(synthesizing, "load_model", lambda *_: demo_model)
    all_three = made(tmp_path / "all", "vllm", "sample")
    last = made(tmp_path / "last", "vllm", "sample", PromptSet(PROMPTS.prompts[2:], "here"))
    assert last == all_three[2:]
    assert all(row["chosen"] != row["rejected"] for row in all_three)
