"""Whatever can change an answer is in its key: a run never takes up another setting's or another model's answers."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shutil

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from aad_plugin.errors import ConfigError
from aad_plugin.files.marks import checkpoint_mark, tokenizer_mark, weights_mark
from aad_plugin.harness.answer_store import request_key
from aad_plugin.harness.arguments import _OWN, PairArguments
from aad_plugin.harness.gen_kwargs import split_gen_kwargs
from aad_plugin.harness.model import AADLM
from aad_plugin.harness.neutral_options import NEUTRAL
from aad_plugin.pair.account import describe
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.same_weights import equal_models
from aad_plugin.settings import READ_BY, STRATEGIES, DecodingSettings
from aad_plugin.sources.known_options import FROM_PRETRAINED
from tests.toys import EOS, byte_tokenizer

OTHER = {"strategy": "greedy", "alpha": 0.3, "n": 5, "picker": "reward:x", "eft_scale": 2.5, "expo_scale": 1.5,
         "guide_scale": 2.5, "guide_top_k": 3, "cd_alpha": 0.5, "cd_beta": 0.3, "noise_step": 300,
         "temperature": 0.4, "top_p": 0.3, "seed": 99}  # fmt: skip
# Names that lm-eval's VLLM and vLLM's engine take; tests/engine walks all of theirs.
ENGINE = ("hf_overrides", "kv_cache_dtype", "quantization", "tokenizer_revision", "merge_adapters", "max_model_len",
          "enforce_eager", "speculative_config", "a_name_of_next_year")  # fmt: skip
VALUES = {"dtype": "bfloat16", "reference_dtype": "bfloat16", "shortcuts": "none", "loglikelihood": "reference",
          "enable_thinking": False,
          "trace": "somewhere", "hf_overrides": {"max_position_embeddings": 64}, **OTHER}  # fmt: skip
PARTS = {"pair", "pretrained", "policy", "reference", "base", "adapter", "reference_adapter", "guide_reference"}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DecodingSettings)])
def test_every_setting_changes_the_key_or_is_read_by_no_such_strategy(field):
    assert field in OTHER, "a new setting needs another value here"
    for strategy in STRATEGIES:
        before = DecodingSettings(strategy=strategy)
        after = dataclasses.replace(before, **{field: OTHER[field] if field != "strategy" else _another(strategy)})
        differs = request_key("p", before, 0, {}) != request_key("p", after, 0, {})
        assert differs == (strategy in READ_BY.get(field, STRATEGIES)), (strategy, field)


def _another(strategy: str) -> str:
    return next(name for name in STRATEGIES if name != strategy)


def test_prompt_sample_and_every_generation_option_are_in_the_key():
    settings = DecodingSettings(strategy="sample")
    asked = [("p", 0, {}), ("q", 0, {}), ("p", 1, {}), ("p", 0, {"until": ["a"]}), ("p", 0, {"max_gen_toks": 3})]
    assert len({request_key(context, settings, sample, options) for context, sample, options in asked}) == len(asked)


def test_a_picker_with_other_weights_is_another_picker(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    settings = DecodingSettings(strategy="best_of_n", picker=f"reward:{tmp_path}")
    before = request_key("p", settings, 0, {})
    assert request_key("p", settings, 0, {}) == before
    weights.write_bytes(b"two")
    os.utime(weights, ns=(1, 1))
    assert request_key("p", settings, 0, {}) != before


def test_a_picker_that_is_an_adapter_is_another_picker_on_another_base(tmp_path):
    """Was: the adapter's own folder was marked alone."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"one")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    settings = DecodingSettings(strategy="best_of_n", picker=f"reward:{adapter}")
    before = request_key("p", settings, 0, {})
    (base / "model.safetensors").write_bytes(b"another")
    assert request_key("p", settings, 0, {}) != before
    (base / "model.safetensors").write_bytes(b"one")
    assert request_key("p", settings, 0, {}) == before, "one content is one picker, whenever it was written"


_NAMES = sorted({*_OWN, *ENGINE, *FROM_PRETRAINED, "trust_remote_code", "bnb_4bit_quant_type",
                 *inspect.signature(HFLM.__init__).parameters} - {"self", "kwargs", "peft", "delta"})  # fmt: skip


@pytest.mark.parametrize("name", [name for name in _NAMES if name not in PARTS])
def test_every_model_arg_is_in_the_account_or_listed_with_a_reason(name):
    plain = {"policy": "a", "reference": "b"}
    before = PairArguments.parse(None, None, plain).telling
    after = PairArguments.parse(None, None, {**plain, name: VALUES.get(name, "other")}).telling
    assert (after != before) == (name not in NEUTRAL), name
    json.dumps(after)


def test_the_reasons_are_sentences_and_secrets_stay_out():
    assert all(len(reason.split()) >= 2 for reason in NEUTRAL.values())
    assert PARTS - {"guide_reference"} | set(OTHER) <= set(NEUTRAL), (
        "parts and settings reach the key by other ways, tested here"
    )
    assert "hunter2" not in json.dumps(PairArguments.parse(None, None, {"policy": "a", "reference": "b",
                                                                        "token": "hunter2"}).telling)  # fmt: skip


def test_every_part_is_marked_on_its_own(checkpoints):
    """The parts' paths and the weights behind them are in the account, whatever name they were given by."""
    found = [AADLM(**checkpoints.model_args(kind), device="cpu").cache_fingerprint()
             for kind in ("two_models", "reference_plus_lora", "two_adapters")]  # fmt: skip
    assert len(set(found)) == 3


@pytest.fixture(scope="module")
def model(checkpoints) -> AADLM:
    return AADLM(**checkpoints.model_args("two_models"), device="cpu")


@pytest.mark.parametrize("options", [
    {"revision": "main"}, {"shortcuts": "none"}, {"max_length": 77}, {"add_bos_token": True},
    {"attn_implementation": "eager"}, {"dtype": "bfloat16"}, {"reference_dtype": "bfloat16"},
], ids=str)  # fmt: skip
def test_a_loaded_model_tells_its_options(checkpoints, model, options):
    other = AADLM(**checkpoints.model_args("two_models"), device="cpu", **options)
    assert other.cache_fingerprint() != model.cache_fingerprint()


def test_the_same_arguments_are_the_same_model_in_any_batch_size(checkpoints, model):
    again = AADLM(**checkpoints.model_args("two_models"), device="cpu", batch_size=7)
    assert again.model_account() == model.model_account()


def test_a_change_of_one_number_of_either_model_is_another_model(model):
    before = model.cache_fingerprint()
    for one in model.model.sides.models().values():
        weight = list(one.parameters())[1]
        with torch.no_grad():  # beyond the first values of the tensor
            old = weight.view(-1)[-1].clone()
            weight.view(-1)[-1] += 1
            assert model.cache_fingerprint() != before
            weight.view(-1)[-1] = old
    assert model.cache_fingerprint() == before


@pytest.mark.parametrize(
    "change", [{"lora_alpha": 32}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 2}}], ids=str
)
def test_an_adapter_added_with_another_strength_is_another_model(checkpoints, tmp_path, change):
    """Was: one account, since its tensors are the same, and a resumed run took up the other model's answers."""
    folder = tmp_path / "adapter"
    shutil.copytree(checkpoints.adapter, folder)
    words = {"reference": str(checkpoints.base), "adapter": str(folder), "guide": str(folder)}
    loaded = [AlignedPair.from_pretrained(**words)]
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    loaded.append(AlignedPair.from_pretrained(**words))
    before, after = map(describe, loaded)
    assert before["weights"] != after["weights"]
    layer = next(one for one in loaded[0].modules() if isinstance(getattr(one, "scaling", None), dict))
    layer.scaling["policy"] *= 2
    assert describe(loaded[0])["weights"] not in (before["weights"], after["weights"]), "changed in memory"
    layer.scaling["policy"] /= 2
    assert describe(loaded[0]) == before


def test_the_proof_path_the_configuration_and_the_heads_dtype_count(model, monkeypatch):
    before, account = model.cache_fingerprint(), model.model_account()
    policy = model.model.sides.models()["policy"]
    with monkeypatch.context() as patch:
        patch.setattr(policy.config, "rms_norm_eps", 0.5)
        assert model.cache_fingerprint() != before
    with monkeypatch.context() as patch:
        patch.setattr(model.model, "proof", None)
        assert model.cache_fingerprint() != before
    head = policy.get_output_embeddings()
    own, head.weight = head.weight, torch.nn.Parameter(head.weight.double())
    assert model.cache_fingerprint() != before
    head.weight = own
    assert model.model_account() == account


@pytest.mark.parametrize("asked", [
    {"temperature": 0.7}, {"temperature": 0.7, "do_sample": True}, {"temperature": 0.7, "do_sample": False},
    {"temperature": 0}, {"top_p": 0.5}, {"do_sample": True}, {"do_sample": True, "temperature": 0.0}, {},
])  # fmt: skip
def test_a_request_draws_where_lm_eval_has_it_draw_and_has_no_key_then(asked):
    """Raw, as keys are made of it, and normalised, as `_model_generate` gets it."""
    raw = {"until": ["x"], "max_gen_toks": 9, **asked}
    drawn = [
        split_gen_kwargs(one, DecodingSettings())[2].get("do_sample", False) for one in (raw, normalize_gen_kwargs(raw))
    ]
    assert (
        drawn
        == [bool(asked.get("temperature", asked == {"do_sample": True}) and asked.get("do_sample") is not False)] * 2
    )
    sampled = split_gen_kwargs(raw, DecodingSettings(strategy="sample"))
    assert sampled[0].temperature == (asked.get("temperature") or 1.0) and "do_sample" not in sampled[2]


def test_do_sample_is_read_as_lm_eval_reads_it():
    """Was: 1, which a command line makes of do_sample=1, did not sample, and said nothing."""
    for value, drawn in ((1, True), (0, False)):
        asked = {"do_sample": value, "temperature": 0.7}
        assert split_gen_kwargs(asked, DecodingSettings())[2].get("do_sample", False) is drawn
    with pytest.raises(ConfigError, match="do_sample must be true or false, got 'yes'"):
        split_gen_kwargs({"do_sample": "yes"}, DecodingSettings())


def test_a_batch_that_was_padded_leaves_the_tokenizers_mark():
    one = byte_tokenizer()
    before = tokenizer_mark(one)
    one(["a", "longer"], padding=True, truncation=True, max_length=4)
    assert tokenizer_mark(one) == before


def test_another_template_or_vocabulary_is_another_tokenizer():
    plain, other, grown = byte_tokenizer(), byte_tokenizer(), byte_tokenizer()
    other.chat_template = "{{ messages[0]['content'] }}"
    grown.add_tokens(["<new>"])
    assert len({tokenizer_mark(plain), tokenizer_mark(other), tokenizer_mark(grown)}) == 3
    assert tokenizer_mark(plain) == tokenizer_mark(byte_tokenizer())


def test_a_checkpoints_mark_is_its_files_or_its_commit(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1")
    before = checkpoint_mark(str(tmp_path))
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    assert checkpoint_mark(str(tmp_path)) != before
    assert checkpoint_mark("nobody/nothing") == ["nobody/nothing", None]


def test_end_tokens_of_generation_config_count(checkpoints, tmp_path):
    """A user who adds the missing end token of a checkpoint gets no answers of before."""
    own = tmp_path / "policy"
    shutil.copytree(checkpoints.policy, own)
    arguments = {**checkpoints.model_args("two_models"), "policy": str(own)}
    before = AADLM(**arguments, device="cpu")
    file = own / "generation_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "eos_token_id": [EOS, 31]}))
    after = AADLM(**arguments, device="cpu")
    assert after.model_account()["end_tokens"] == sorted([EOS, 31]) and "end_tokens" not in before.model_account()
    assert after.cache_fingerprint() != before.cache_fingerprint()


def test_weights_in_buffers_count():
    """Quantised layers keep theirs there; what is computed anew at every loading does not."""

    class Quantised(torch.nn.Module):
        def __init__(self, value, computed=0):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(2))
            self.register_buffer("qweight", torch.tensor([value], dtype=torch.uint8))
            self.register_buffer("cos", torch.tensor([computed]), persistent=False)

    assert weights_mark(Quantised(1)) != weights_mark(Quantised(2))
    assert weights_mark(Quantised(1)) == weights_mark(Quantised(1, 7))
    assert equal_models(Quantised(1), Quantised(1, 7)) and not equal_models(Quantised(1), Quantised(2))
