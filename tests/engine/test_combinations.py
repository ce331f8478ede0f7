"""Strategies with features of vLLM, through ``--model aad-vllm``: each cell of `tests.combinations` is what runs."""

from __future__ import annotations

import gc
import os
from typing import Any
from unittest import mock

import numpy as np
import pytest
from lm_eval.api.instance import Instance

from aad_plugin.errors import AADError
from aad_plugin.settings import STRATEGIES, DecodingSettings
from tests.combinations import VLLM, cell
from tests.naive import NaivePair
from tests.toys import EOS, byte_tokenizer

pytestmark = [pytest.mark.engine, pytest.mark.grid]

KINDS = {"checkpoints": "llama", "LoRA": "llama + LoRA", "two LoRAs": "llama + two LoRAs"}
PROMPTS = ["Say hello to the quick brown fox.", "Why?"]
TOKENS = 12
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3}
# What a feature adds to model_args, or to gen_kwargs.
MODEL_ARGS: dict[str, dict[str, Any]] = {
    "batch": {},
    "chunked prefill": {"enable_chunked_prefill": True, "max_num_batched_tokens": 16},
    "compile": {"enforce_eager": False},
    "ngram": {"speculative_config": NGRAM},
    "draft_model": {"speculative_config": {"method": "draft_model", "num_speculative_tokens": 3}},
}
GEN_KWARGS: dict[str, dict[str, Any]] = {
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "beams": {"num_beams": 2},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
}


class Loaded:
    """A toy pair as ``--model aad-vllm``, with the tokens of each answer that arrives."""

    def __init__(self, disk, **more: Any) -> None:
        from aad_plugin.harness.vllm_model import AADVLLM

        self.naive = NaivePair(disk.policy_logits, disk.reference_logits)
        names = {"adapter": "reference", "reference_adapter": "base"}
        first = "policy" if "reference" in disk.rest else names[list(disk.rest)[-1]]
        if more.get("speculative_config", {}).get("method") == "draft_model":
            more["speculative_config"] = {**more["speculative_config"], "model": str(disk.model)}
        options = dict(dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=8, answers_dir="none")
        # The pair's own advantage, as in `tests.naive`.
        guide = disk.rest.get("adapter", str(disk.model))
        measured = disk.rest.get("reference") or disk.rest.get("reference_adapter") or str(disk.model)
        options |= {"guide": guide, "guide_reference": measured}
        # What numba, for ngram drafts, leaves in a process lets no second engine start there.
        alone = {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(more.get("speculative_config") is NGRAM))}
        with mock.patch.dict(os.environ, alone):
            self.model = AADVLLM(**{first: str(disk.model)}, **disk.rest, **{**options, **more})
        self.arrived: dict[str, list[int]] = {}
        arrive = self.model._arrived

        def keep(output: Any, parameters: Any) -> None:
            self.arrived[parameters.extra_args["answer_id"]] = list(output.outputs[0].token_ids)
            arrive(output, parameters)

        self.model._arrived = keep

    def found(self, strategy: str, **more: Any) -> str:
        """What a cell is: "equal", "drawn", "refused", or what went wrong."""
        settings = DecodingSettings(strategy=strategy)
        asked = {"strategy": strategy, "max_gen_toks": TOKENS, "until": [], **more}
        requests = [Instance("generate_until", {}, (prompt, asked), 0) for prompt in PROMPTS]
        self.arrived.clear()
        try:
            self.model.generate_until(requests, disable_tqdm=True)
        except AADError as error:
            return "refused" if "\n" not in str(error) else f"refused in more than a line: {error}"
        each = settings.n if strategy == "best_of_n" else 1
        answers = [self.arrived[str(number)] for number in range(each * len(PROMPTS))]
        prompts = [byte_tokenizer()(prompt).input_ids for prompt in PROMPTS for _ in range(each)]
        if settings.samples:
            return "drawn" if all(map(self._is_drawn, prompts, answers)) else f"tokens from elsewhere: {answers}"
        wanted = [ended(self.naive.answer(settings, prompt, TOKENS)) for prompt in prompts]
        return "equal" if answers == wanted else f"other tokens: {answers} for {wanted}"

    def _is_drawn(self, prompt: list[int], answer: list[int]) -> bool:
        likely = [
            self.naive.nucleus(DecodingSettings(), prompt + answer[:step])[token] for step, token in enumerate(answer)
        ]
        return bool(np.all(likely)) and len(answer) > 0


def ended(tokens: list[int]) -> list[int]:
    """An answer up to its end."""
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("feature", MODEL_ARGS)
def test_every_strategy_with_a_feature_of_the_engine(toy_pairs, feature, kind):
    loaded = Loaded(toy_pairs[KINDS[kind]], **MODEL_ARGS[feature])
    cells = {strategy: loaded.found(strategy) for strategy in STRATEGIES}
    del loaded
    gc.collect()
    assert cells == {strategy: cell(VLLM, strategy, feature) for strategy in STRATEGIES}


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_transformers_can_do_is_refused(toy_pairs, kind):
    loaded = Loaded(toy_pairs[KINDS[kind]])
    cells = {name: {loaded.found(strategy, **more) for strategy in STRATEGIES} for name, more in GEN_KWARGS.items()}
    with pytest.raises(AADError, match="trace=… is written by --model aad"):
        Loaded(toy_pairs[KINDS[kind]], trace="trace.parquet")
    del loaded
    gc.collect()
    assert cells == {key: {"refused"} for key in GEN_KWARGS}


def test_every_feature_of_the_table_is_tried():
    assert {*MODEL_ARGS, *GEN_KWARGS, "trace"} == set(VLLM)
