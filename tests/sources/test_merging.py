"""Merged adapters say what the adapters said; what cannot be merged is one line; the shorter context holds for a pair."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from aad_plugin.engine.checks import check_context
from aad_plugin.engine.options import _shorter_context
from aad_plugin.errors import ConfigError
from aad_plugin.sources.merging import merge_adapter
from tests.toys import EOS, PAD, VOCAB, byte_tokenizer

IDS = torch.tensor([[5, 9, 200, 31, 7]])


@pytest.fixture
def tied(tmp_path):
    """A base whose head is its embeddings, as Qwen2.5-0.5B, Llama-3.2-1B and SmolLM are."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, eos_token_id=EOS, pad_token_id=PAD, bos_token_id=None,
            tie_word_embeddings=True,
        )
    )  # fmt: skip
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(std=0.5)
    model.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapted(base, config, std=0.3):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and ("lora_B" in name or "ia3" in name or "prompt" in name):
                weight.add_(torch.randn_like(weight) * std)
    model.save_pretrained(base.parent / "adapter")
    with torch.no_grad():
        return base.parent / "adapter", model(input_ids=IDS).logits


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"),
        LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM"),
        LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
        IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ],
    ids=["lora on the head", "lora on the embeddings", "a saved head", "ia3"],
)
def test_a_tied_base_merges_into_what_the_adapter_said(tied, tmp_path, config):
    adapter, wanted = adapted(tied, config)
    merged = AutoModelForCausalLM.from_pretrained(merge_adapter(str(tied), str(adapter), "auto", tmp_path / "merged"))
    with torch.no_grad():
        assert torch.allclose(merged(input_ids=IDS).logits, wanted, atol=1e-4)
    assert isinstance(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tied), adapter), PeftModel)


def test_trained_tokens_of_a_tied_base_merge_into_both_or_not_at_all(tied, tmp_path):
    """PEFT gives the head the tokens' new rows, too, where it shares the embeddings' weights. Was: written without them."""
    config = LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[60, 61], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tied), config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and ("lora_B" in name or "token_adapter" in name):
                weight.add_(torch.randn_like(weight))
    model.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[5, 60, 200, 61, 7]])
    with torch.no_grad():
        wanted = model(input_ids=ids).logits
    target = merge_adapter(str(tied), str(tmp_path / "adapter"), "auto", tmp_path / "merged")
    with torch.no_grad():
        assert torch.allclose(AutoModelForCausalLM.from_pretrained(target)(input_ids=ids).logits, wanted, atol=1e-4)


def test_an_adapter_on_tied_embeddings_that_peft_adds_twice_is_refused(tied, tmp_path):
    config = LoraConfig(r=4, target_modules=["embed_tokens"], ensure_weight_tying=True, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tied), config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="merged, its logits differ by"):
        merge_adapter(str(tied), str(tmp_path / "adapter"), "auto", tmp_path / "merged")


def test_prompt_tuning_is_one_line(tied, tmp_path):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    adapter, _ = adapted(tied, config)
    with pytest.raises(ConfigError, match=r"does not fit base .*PROMPT_TUNING cannot be merged into weights"):
        merge_adapter(str(tied), str(adapter), "auto", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_whose_tensors_match_no_layer_is_refused(tied, tmp_path):
    """As a vision-language wrapper writes them; PEFT only warns."""
    adapter, _ = adapted(tied, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    file = adapter / "adapter_model.safetensors"
    save_file({name.replace(".model.", ".model.language_model.", 1): t for name, t in load_file(file).items()}, file)
    with pytest.raises(ConfigError, match="its tensors match no layer of this base"):
        merge_adapter(str(tied), str(adapter), "auto", tmp_path / "merged")


def test_the_shorter_context_holds_for_a_pair(tied, tmp_path):
    config = LlamaConfig.from_pretrained(tied)
    config.max_position_embeddings = 64
    config.save_pretrained(tmp_path / "short")
    assert _shorter_context([(str(tied), None), (str(tmp_path / "short"), None)]) == 64
    assert _shorter_context([(str(tmp_path / "short"), None), (str(tied), None)]) is None
    with pytest.raises(
        ConfigError, match="the reference reads at most 64 tokens, the engine admits 512: pass max_model"
    ):
        check_context("reference", config, 512)
    check_context("reference", config, 64)
