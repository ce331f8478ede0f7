"""A hub model's revision reaches everything that is read before an engine starts: tokenizers, contexts, guides, the plan.

The hub is not reachable here: what asks for it is answered by toys, one for each revision.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import AutoConfig, AutoTokenizer, LlamaConfig

from aad_plugin.cli import serve
from aad_plugin.cli.engine_options import AskedPair, engine_value
from aad_plugin.engine import guide_options, options
from aad_plugin.engine.options import engine_pair
from aad_plugin.errors import ConfigError
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.guides import Guide, GuideModel
from aad_plugin.sources.parts import PairSource
from tests.toys import byte_tokenizer

CONTEXTS = {("my/dpo", "v2"): 512, ("my/sft", "v1"): 64, ("my/dpo", None): 32}


@pytest.fixture
def asked(monkeypatch):
    """Every (id, revision) that is asked for, and whether its own code may run."""
    found, trusted = [], []

    def tokenizer(name, revision=None, **options):
        found.append((name, revision))
        trusted.append(options.get("trust_remote_code", False))
        return byte_tokenizer()

    def config(name, revision=None, **options):
        found.append((name, revision))
        trusted.append(options.get("trust_remote_code", False))
        return LlamaConfig(max_position_embeddings=CONTEXTS[name, revision])

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", tokenizer)
    monkeypatch.setattr(AutoConfig, "from_pretrained", config)
    for name in ("check_vllm", "refuse_pickles"):
        monkeypatch.setattr(options, name, lambda *_: None)
    monkeypatch.setattr(guide_options, "check_kind", lambda _: None)
    return SimpleNamespace(names=found, trusted=trusted)


def test_tokenizers_and_contexts_are_those_of_the_revisions(asked):
    source = PairSource(policy="my/dpo", reference="my/sft")
    pair = engine_pair(source, DecodingSettings(), revision="v2", reference_revision="v1")
    assert set(asked.names) == {("my/dpo", "v2"), ("my/sft", "v1")}
    assert pair.arguments["max_model_len"] == 64


def test_a_guide_by_the_policys_name_is_its_main_revision(asked):
    guide = Guide("my/dpo", GuideModel("my/dpo"))
    source = PairSource(policy="my/dpo", reference="my/sft", guides=(guide,))
    pair = engine_pair(source, DecodingSettings(strategy="guided"), revision="v2", reference_revision="v1")
    own = pair.arguments["hf_overrides"]["aad"]
    assert own["guides"] == [["guide1", None]]
    assert own["guide_checkpoints"] == {"guide1": ["my/dpo", None]}
    assert pair.arguments["max_model_len"] == 32
    plain = engine_pair(source, DecodingSettings(strategy="guided"), reference_revision="v1")
    assert plain.arguments["hf_overrides"]["aad"]["guides"] == [["policy", None]]


def test_a_servers_self_test_and_plan_read_the_revision_that_is_served(asked, capsys):
    pair = AskedPair(PairSource(policy="my/dpo", reference="my/sft"), DecodingSettings(), "auto", "v1", None)
    proving = pair.proving(["--revision=v2"])
    assert (proving["revision"], proving["reference_revision"]) == ("v2", "v1")
    assert "revision" not in pair.proving([])
    assert pair.proving(["--trust-remote-code"])["trust_remote_code"] is True
    serve._plan(pair, "bfloat16", ["--revision", "v2", "--max-model-len=2048"], 80.0)
    assert asked.names == [("my/dpo", "v2"), ("my/sft", "v1")]
    assert "requests of full length" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["32k", "auto", "0"])
def test_a_plan_wants_whole_numbers(asked, given):
    pair = AskedPair(PairSource(policy="my/dpo", reference="my/sft"), DecodingSettings(), "auto", "v1", None)
    with pytest.raises(ConfigError, match="--max-model-len must be a whole number from 1 to plan with, got"):
        serve._plan(pair, "bfloat16", ["--revision", "v2", "--max-model-len", given], 80.0)


@pytest.mark.parametrize("named", [{"revision": "abc"}, {"revision": "main", "reference_revision": "abc"}])
def test_weights_that_are_rewritten_are_those_of_no_other_revision(asked, named):
    source = PairSource(policy="my/dpo", reference="my/sft")
    with pytest.raises(
        ConfigError, match="revision=abc: weights that are extrapolated or merged for vLLM are made from"
    ):
        engine_pair(source, DecodingSettings(strategy="expo"), **named)
    assert not asked.names


@pytest.mark.parametrize("trust", [True, False])
def test_a_repositorys_own_code_is_run_where_the_user_said_so(asked, trust):
    source = PairSource(policy="my/dpo", reference="my/sft")
    engine_pair(source, DecodingSettings(), revision="v2", reference_revision="v1", trust_remote_code=trust)
    assert asked.trusted and set(asked.trusted) == {trust}


@pytest.mark.parametrize(
    "extra",
    [
        ["--max-model-len", "64", "--tensor-parallel-size", "4"],
        ["--max_model_len", "64", "-tp", "4"],
        ["--max_model_len=64", "-tp=4"],
    ],
)
def test_a_plan_reads_every_spelling_of_an_option(asked, capsys, extra):
    pair = AskedPair(PairSource(policy="my/dpo", reference="my/sft"), DecodingSettings(), "auto", "v1", None)
    serve._plan(pair, "bfloat16", ["--revision", "v2", *extra], 80.0)
    plan = capsys.readouterr().out
    serve._plan(pair, "bfloat16", ["--revision=v2", "--max-model-len=64", "--tensor-parallel-size=4"], 80.0)
    assert plan == capsys.readouterr().out
    assert engine_value(extra, "--max-model-len") == "64" and engine_value(extra, "--tensor-parallel-size") == "4"
    assert engine_value(["--dtype"], "--dtype") is None
