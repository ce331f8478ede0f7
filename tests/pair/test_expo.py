"""ExPO: one model at θ_policy + scale · (θ_policy − θ_reference), read through a pair and written for any host."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from aad_plugin.errors import ConfigError
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair, load_pair
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.extrapolating import expo_checkpoint, extrapolated, save_expo
from aad_plugin.sources.parts import resolve
from tests.pairs import KINDS
from tests.toys import left_pad, random_prompts, toy_model

SCALE = 1.5
IDS, MASK = left_pad(random_prompts([9, 5, 12]))


def merged(parts: dict[str, str]) -> torch.nn.Module:
    """The plain arithmetic on whole weights, float64."""

    def whole(adapter: str | None) -> torch.nn.Module:
        base = AutoModelForCausalLM.from_pretrained(parts.get("base") or parts["reference"], dtype=torch.float64)
        return PeftModel.from_pretrained(base, adapter).double().merge_and_unload() if adapter else base

    if "policy" in parts:
        policy, reference = (AutoModelForCausalLM.from_pretrained(parts[n], dtype=torch.float64)
                             for n in ("policy", "reference"))  # fmt: skip
    else:
        policy, reference = whole(parts["adapter"]), whole(parts.get("reference_adapter"))
    others = dict(reference.named_parameters())
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            weight.add_(SCALE * (weight - others[name]))
    return policy.eval()


def greedy(model, ids, mask, steps=8):
    options = {"max_new_tokens": steps, "do_sample": False, "pad_token_id": 257}
    return model.generate(input_ids=ids, attention_mask=mask, **options)


@pytest.mark.parametrize("shortcuts", ["auto", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_expo_is_the_merged_arithmetic_and_leaves_the_pair_as_it_was(checkpoints, kind, shortcuts):
    parts = checkpoints.model_args(kind)
    pair = load_pair(**parts, shortcuts=shortcuts)
    asked = {"input_ids": IDS, "attention_mask": MASK, "max_new_tokens": 8, "pad_token_id": 257}
    before = [pair.generate(**asked, strategy=strategy) for strategy in ("aad", "greedy")]
    settings = DecodingSettings(strategy="expo", expo_scale=SCALE)
    plain = merged(parts)
    with torch.no_grad():
        scores = pair(IDS[2:], settings=settings).logits
        wanted = plain(IDS[2:]).logits
    assert torch.allclose(scores.double(), wanted, atol=1e-5 * float(wanted.abs().max()))
    found = pair.generate(**asked, strategy="expo", expo_scale=SCALE)
    assert torch.equal(found, greedy(plain, IDS, MASK))
    assert not torch.equal(found, before[1]), "this toy's extrapolation chooses other tokens"
    for strategy, tokens in zip(("aad", "greedy"), before, strict=True):
        assert torch.equal(pair.generate(**asked, strategy=strategy), tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_decodes_alike_without_this_package(checkpoints, kind, tmp_path):
    parts = checkpoints.model_args(kind)
    wanted = greedy(merged(parts), IDS, MASK)
    written = save_expo(resolve(**parts), SCALE, tmp_path / "one")
    assert written == ("adapter" if kind == "reference_plus_lora" else "checkpoint")
    if written == "adapter":
        base = AutoModelForCausalLM.from_pretrained(parts["reference"])
        model = PeftModel.from_pretrained(base, tmp_path / "one").eval()
        assert save_expo(resolve(**parts), SCALE, tmp_path / "whole", whole=True) == "checkpoint"
        assert torch.equal(greedy(AutoModelForCausalLM.from_pretrained(tmp_path / "whole"), IDS, MASK), wanted)
    else:
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert torch.equal(greedy(model, IDS, MASK), wanted)
    with pytest.raises(ConfigError, match="holds something already: choose an empty folder"):
        save_expo(resolve(**parts), SCALE, tmp_path / "one")


def test_the_cache_makes_it_once_and_anew_for_another_scale(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setenv("AAD_CACHE_DIR", str(tmp_path))
    source = resolve(**checkpoints.model_args("two_models"))
    first = expo_checkpoint(source, 0.5)
    assert expo_checkpoint(source, 0.5) == first != expo_checkpoint(source, 0.25)


def test_a_shared_vocabulary_of_other_heads_and_tied_weights():
    policy, reference = toy_model("llama", 4), toy_model("llama", 5)
    reference.resize_token_embeddings(260, mean_resizing=False)
    policy.config.tie_word_embeddings = True
    policy.tie_weights()
    found = extrapolated(policy, reference, 2.0)
    own, other = policy.get_input_embeddings().weight, reference.get_input_embeddings().weight[:258]
    assert torch.allclose(found.get_input_embeddings().weight, own + 2 * (own - other))
    head = policy.get_output_embeddings().weight
    wanted = head + 2 * (head - reference.get_output_embeddings().weight[:258])
    assert torch.allclose(found.get_output_embeddings().weight, wanted)
    assert torch.equal(policy.get_input_embeddings().weight, policy.get_output_embeddings().weight)


def test_sums_are_in_float32_and_a_scale_out_of_range_is_told():
    policy, reference = toy_model("llama", 4).bfloat16(), toy_model("llama", 5).bfloat16()
    name = "model.layers.0.self_attn.q_proj.weight"
    own, other = (dict(one.named_parameters())[name].float() for one in (policy, reference))
    assert torch.equal(dict(extrapolated(policy, reference, 0.3).named_parameters())[name],
                       (own + 0.3 * (own - other)).bfloat16())  # fmt: skip
    with pytest.raises(ConfigError, match=r"leaves the range of torch\.float16"):
        extrapolated(policy.half(), reference.half(), 1e6)


def test_two_architectures_have_no_such_model():
    pair = AlignedPair(Checkpoints(toy_model("llama", 4), toy_model("qwen3", 5)), vocab_size=258)
    with pytest.raises(ConfigError, match="one architecture, got LlamaForCausalLM and Qwen3ForCausalLM"):
        pair.generate(input_ids=IDS, max_new_tokens=2, strategy="expo", pad_token_id=257)


@pytest.mark.parametrize("kind", ["DoRA", "IA3"])
def test_adapters_that_add_nothing_in_proportion_are_refused(kind):
    from peft import IA3Config, LoraConfig, get_peft_model

    from aad_plugin.pair.sides_in_turns import OneBaseInTurns

    config = LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    if kind == "IA3":
        config = IA3Config(target_modules=["q_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(toy_model("llama", 4)), config, adapter_name="policy").eval()
    pair = AlignedPair(OneBaseInTurns(model, {"policy": "policy", "reference": None}), vocab_size=258)
    with pytest.raises(ConfigError, match=f"expo scales what a LoRA adds, and the adapter is {kind}"):
        pair.generate(input_ids=IDS, max_new_tokens=2, strategy="expo", pad_token_id=257)


def test_whole_modules_of_an_adapter_are_refused(checkpoints):
    from peft import LoraConfig, get_peft_model

    from aad_plugin.pair.one_base import OneBase

    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(toy_model("llama", 4)), config, adapter_name="policy").eval()
    pair = AlignedPair(OneBase(model, "policy"), vocab_size=258)
    with pytest.raises(ConfigError, match="replaces lm_head whole: write one model with aad pairs save --expo"):
        pair.generate(input_ids=IDS, max_new_tokens=2, strategy="expo", pad_token_id=257)


def test_the_command_saves_and_the_words_are_checked(aad, checkpoints, tmp_path):
    parts = ["--policy", checkpoints.policy, "--reference", checkpoints.reference]
    done = aad("pairs", "save", *parts, "--expo", "--expo-scale", "0.25", tmp_path / "one")
    assert done.exit_code == 0, done.exception
    assert "a checkpoint at expo_scale 0.25" in done.output and (tmp_path / "one" / "README.md").is_file()
    assert "--whole says how --expo writes" in str(aad("pairs", "save", *parts, "--whole", tmp_path / "two").exception)
    assert "expo_scale must be a number at least 0" in str(
        aad("generate", "hello", *parts, "--strategies", "expo", "--expo-scale", "-1").exception
    )
    assert "expo is one model and needs no pair on vLLM" in str(
        aad("serve", *parts, "--model-args", "strategy=expo").exception
    )


def test_expo_scale_zero_warns(caplog):
    DecodingSettings(strategy="expo", expo_scale=0)
    assert "plain greedy" in caplog.text
