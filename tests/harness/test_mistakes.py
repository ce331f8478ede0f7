"""What a user mistypes on a command line is answered in one line, before anything is loaded."""

from __future__ import annotations

import argparse
import logging

import pytest

from aad_plugin.errors import BackendMissing, ConfigError
from aad_plugin.harness import registration
from aad_plugin.harness.gen_kwargs import vllm_options

OPTIONS = {"model": "aad", "model_args": "pair=demo", "tasks": "aad_demo_dialogue"}


@pytest.fixture(autouse=True)
def registered():
    registration.register_all()


def read(**options):
    from lm_eval.config.evaluate_config import EvaluatorConfig

    return EvaluatorConfig.from_cli(argparse.Namespace(**{**OPTIONS, **options}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0.0}, "--limit must be above 0 (documents; below 1 a share of them), got 0"),
        ({"limit": -2.0}, "--limit must be above 0 (documents; below 1 a share of them), got -2"),
        ({"model": "aadd"}, "no model 'aadd' (did you mean 'aad'?); lm-eval knows "),
        ({"log_samples": True}, "lm-eval: Specify --output_path if providing --log_samples or --predict_only"),
        ({"config": "nothing.yaml"}, "lm-eval: Config file not found: "),
    ],
)
def test_options(options, message):
    with pytest.raises(ConfigError) as caught:
        read(**options)
    assert str(caught.value).startswith(message)


def test_a_task_that_is_not_there():
    config = read(tasks="aad_demo_dialog,aad_xstest")
    with pytest.raises(ConfigError) as caught:
        config.process_tasks(config.metadata)
    assert str(caught.value) == (
        "lm-eval: Tasks not found: aad_demo_dialog (did you mean 'aad_demo_dialogue'?); `lm_eval ls tasks` and `aad tasks` "
        "list them"
    )


def test_what_is_right_stays_as_it_was():
    config = read(limit=3.0, output_path="out", log_samples=True)
    assert (config.limit, config.model, config.tasks) == (3, "aad", "aad_demo_dialogue")


def test_python_that_asks_for_no_document(evaluate, checkpoints):
    with pytest.raises(ConfigError, match="--limit must be above 0"):
        evaluate("aad", checkpoints.model_args("two_models"), limit=0)


def test_vllm_that_is_not_installed():
    from importlib.util import find_spec

    if find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    from lm_eval.api.registry import get_model

    with pytest.raises(BackendMissing, match=r"vLLM is not installed: pip install 'aad_plugin\[vllm\]'"):
        get_model("aad-vllm")


@pytest.mark.parametrize(("applied", "told"), [(False, True), (True, False)])
def test_a_chat_template_that_is_left_out_is_named(evaluate, checkpoints, caplog, applied, told):
    with caplog.at_level(logging.WARNING):
        evaluate("aad", checkpoints.model_args("two_models"), limit=1, apply_chat_template=applied)
    assert ("this pair has a chat template, which this run does not apply" in caplog.text) is told
    assert ("Pass --apply_chat_template unless bare text is meant" in caplog.text) is told


def test_our_tasks_alone_are_looked_up_without_reading_lm_evals(monkeypatch):
    """Naming one of ours took five seconds: lm-eval's thousands of files were read first."""
    from lm_eval.config.evaluate_config import EvaluatorConfig
    from lm_eval.tasks.manager import TaskManager

    from aad_plugin.harness import registration

    registration.register_all()
    read: list[bool] = []
    original = TaskManager.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        read.append("hellaswag" in self.all_tasks)

    monkeypatch.setattr(TaskManager, "__init__", init)
    for tasks in ("aad_demo_dialogue,aad_xstest", ["aad_demo"], "aad_demo_dialoge"):
        config = EvaluatorConfig(model="aad", tasks=tasks)
        if tasks == "aad_demo_dialoge":
            with pytest.raises(ConfigError, match="did you mean 'aad_demo_dialogue'"):
                config.process_tasks()
        else:
            config.process_tasks()
            assert config.tasks == (tasks if isinstance(tasks, list) else tasks.split(","))
    assert read == [False] * 4


@pytest.mark.parametrize(
    "options", [{"num_beams": 2}, {"cache_implementation": "static"}, {"use_cache": False}], ids=str
)
def test_vllm_is_not_asked_for_what_only_transformers_has(options):
    """vLLM's own error was a traceback about unexpected keywords."""
    (name, value), *_ = options.items()
    with pytest.raises(ConfigError) as error:
        vllm_options(options, ("temperature", "min_tokens"))
    assert str(error.value) == f"{name}={value!r} is for --model aad: vLLM has no such option, leave it out"


def test_what_asks_for_nothing_is_not_handed_to_vllm():
    given = {"num_beams": 1, "use_cache": True, "min_new_tokens": 3, "until": [], "max_gen_toks": 9}
    assert vllm_options(given, ("min_tokens",)) == {"min_tokens": 3, "until": [], "max_gen_toks": 9}
