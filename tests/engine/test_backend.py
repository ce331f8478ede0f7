"""``--model aad-vllm`` gives what ``--model aad`` gives, in float32 on CPU."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from aad_plugin.errors import ConfigError
from tests.engine.conftest import ENGINE
from tests.harness.conftest import QUESTIONS, answers, loglikelihoods

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("two_threads")]


@pytest.fixture
def run(task_folder):
    import lm_eval
    from lm_eval.tasks import TaskManager

    def evaluate(model, task="toy_generate", **options):
        manager = TaskManager(include_path=str(task_folder), include_defaults=False)
        return lm_eval.simple_evaluate(
            model=model, tasks=[task], task_manager=manager, log_samples=True, bootstrap_iters=0, **options
        )

    return evaluate


def test_strategies_answer_as_on_transformers(run, demo_model, run_folder):
    from aad_plugin.pair.answering import answer
    from aad_plugin.pair.model import load_pair

    ours = load_pair("demo", dtype="float32")
    for asked in ({"strategy": "aad"}, {"strategy": "aad", "alpha": 0.4}, {"strategy": "greedy"},
                  {"strategy": "reference"}, {"strategy": "eft", "eft_scale": 2.0}):  # fmt: skip
        words = ",".join(f"{name}={value}" for name, value in asked.items())
        found = answers(run(demo_model, gen_kwargs=words))
        assert found == answer(ours, QUESTIONS, chat=False, max_new_tokens=12, **asked), asked
    kept = [line for path in run_folder.glob("answers/*/rank0.jsonl") for line in path.read_text().splitlines()]
    assert len(kept) == 5 * len(QUESTIONS)
    again = answers(run(demo_model, gen_kwargs="strategy=eft,eft_scale=2.0"))
    assert again == found


def test_a_kept_answer_ends_at_the_stop_strings_behind_its_thinking(run, demo_model, monkeypatch):
    """With a think_end_token lm-eval gives vLLM the end token alone and cuts afterwards."""
    monkeypatch.setattr(demo_model, "think_end_token", " ")
    fresh = answers(run(demo_model, gen_kwargs="strategy=greedy,until=e"))
    assert not any("e" in text or " " in text for text in fresh) and any(fresh)
    assert answers(run(demo_model, gen_kwargs="strategy=greedy,until=e")) == fresh


@pytest.mark.parametrize("strategy", ["sample", "best_of_3"])
def test_drawn_answers_are_complete(run, demo_model, strategy):
    found = answers(run(demo_model, gen_kwargs=f"strategy={strategy}"))
    assert len(found) == len(QUESTIONS) and all(found)


def test_loglikelihoods_are_those_of_transformers(run, demo_model):
    from aad_plugin.harness.model import AADLM

    for choice in ("policy", "reference", "implicit_reward"):
        demo_model._arguments.loglikelihood = choice
        found = loglikelihoods(run(demo_model, "toy_choose"))
        wanted = loglikelihoods(
            run(AADLM(pair="demo", dtype="float32", device="cpu", loglikelihood=choice), "toy_choose")
        )
        # Two engines' float32 kernels, and merged against unmerged weights, summed over a handful of tokens.
        assert np.allclose(found, wanted, atol=2e-3), choice


def test_merged_adapters_answer_as_those_that_share_their_base(run, demo_model, tmp_path, monkeypatch):
    from aad_plugin.harness.vllm_model import AADVLLM

    merged = AADVLLM(pair="demo", merge_adapters=True, **ENGINE)
    assert len(merged._pair.checkpoints) == 2 and merged._pair.model != demo_model._pair.model
    found = []
    for number, model in enumerate((merged, demo_model)):
        monkeypatch.setenv("AAD_OUTPUT_DIR", str(tmp_path / str(number)))  # no answer is taken from the other's
        found.append(answers(run(model, gen_kwargs="strategy=aad")))
    assert found[0] == found[1]
    model = merged = None  # three engines more would fill the memory of a small machine
    gc.collect()


def test_two_replicas_answer_as_one(run, demo_model, tmp_path, monkeypatch):
    from aad_plugin.harness.vllm_model import AADVLLM

    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # replicas on one machine share its cores
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    replicas = AADVLLM(pair="demo", data_parallel_size=2, **ENGINE)
    found = []
    for number, model in enumerate((replicas, demo_model)):
        monkeypatch.setenv("AAD_OUTPUT_DIR", str(tmp_path / str(number)))  # no answer is taken from the other's
        found.append(answers(run(model, gen_kwargs="strategy=aad")))
    assert found[0] == found[1]
    scored = []
    for model in (replicas, demo_model):
        model._arguments.loglikelihood = "reference"  # not the side whose answers were asked for above
        scored.append(loglikelihoods(run(model, "toy_choose")))
    assert np.allclose(scored[0], scored[1], atol=2e-3)
    replicas._replicas.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference_device": "cpu"}, "so reference_device has no meaning here"),
        ({"strategy": "grdy"}, "did you mean 'greedy'"),
        ({"tensor_paralel_size": 2}, "vLLM does not take these model_args"),
        ({"merge_adapters": "perhaps"}, "merge_adapters must be true or false, got 'perhaps'"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    from aad_plugin.harness.vllm_model import AADVLLM

    with pytest.raises(ConfigError, match=message):
        AADVLLM(pair="demo", **ENGINE, **arguments)
