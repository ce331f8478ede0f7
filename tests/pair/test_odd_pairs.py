"""Pairs that once decoded wrong tokens without a word: each gives the naive loop's now, or one line that refuses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BambaConfig,
    BambaForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from aad_plugin.errors import ConfigError, ProofFailed, VocabMismatch
from aad_plugin.pair.model import AlignedPair
from tests.toys import BUILDERS as TOYS
from tests.toys import EOS, PAD, VOCAB, byte_tokenizer, left_pad, model_logits, naive_aad, random_prompts, spread

STEPS, CLOSE = 24, 1e-4
IDS = dict(vocab_size=VOCAB, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None)
HEADS = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
GROUPED = dict(num_key_value_heads=2, max_position_embeddings=512)
SCAN = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=8)
BUILDERS = {
    "llama": TOYS["llama"],
    "opt": lambda: OPTForCausalLM(
        OPTConfig(**HEADS, ffn_dim=64, max_position_embeddings=512, word_embed_proj_dim=32, **IDS)
    ),
    "mamba": lambda: MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, **IDS)),
    "mamba2": lambda: Mamba2ForCausalLM(
        Mamba2Config(
            hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8, n_groups=1, chunk_size=8, **IDS
        )
    ),
    "mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(**HEADS, **GROUPED, intermediate_size=32, num_local_experts=4, **IDS)
    ),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **HEADS, **GROUPED, intermediate_size=32, moe_intermediate_size=16, head_dim=8, num_experts=4,
            num_experts_per_tok=2, **IDS,
        )
    ),
    "bloom": lambda: BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, **IDS)),
    "bamba": lambda: BambaForCausalLM(
        BambaConfig(**HEADS, num_key_value_heads=2, intermediate_size=64, attn_layer_indices=[1], **SCAN, **IDS)
    ),
    "falcon_h1": lambda: FalconH1ForCausalLM(
        FalconH1Config(**HEADS, num_key_value_heads=2, intermediate_size=64, mamba_d_ssm=64, **SCAN, **IDS)
    ),
}  # fmt: skip
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("AAD_CACHE_DIR", str(tmp_path / "cache"))


def base(folder: Path, arch: str) -> str:
    torch.manual_seed(4)
    model = BUILDERS[arch]().eval()
    spread(model)
    model.save_pretrained(folder / "base")
    byte_tokenizer().save_pretrained(folder / "base")
    return str(folder / "base")


def moved(folder: Path, policy: str) -> str:
    """The policy with every matrix moved a little."""
    model = AutoModelForCausalLM.from_pretrained(policy)
    torch.manual_seed(9)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.add_(torch.randn_like(weight) * weight.std() * 0.3)
    model.save_pretrained(folder / "moved")
    byte_tokenizer().save_pretrained(folder / "moved")
    return str(folder / "moved")


def lora(folder: Path, on: str, name: str = "adapter", **config) -> str:
    torch.manual_seed(len(name))
    options = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **config}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(on), LoraConfig(**options))
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if "lora_B" in weight_name:
                weight.add_(torch.randn_like(weight) * 0.25)
            if "modules_to_save" in weight_name:
                weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder / name)
    return str(folder / name)


def alone(parts: dict[str, str], role: str):
    """The naive reader of one side, loaded by itself."""
    if "policy" in parts:
        return model_logits(AutoModelForCausalLM.from_pretrained(parts[role]).eval())
    model = AutoModelForCausalLM.from_pretrained(parts.get("base") or parts["reference"])
    adapter = parts["adapter"] if role == "policy" else parts.get("reference_adapter")
    return model_logits((PeftModel.from_pretrained(model, adapter) if adapter else model).eval())


def check(parts: dict[str, str]) -> AlignedPair:
    """A padded batch gives the naive loop's tokens."""
    pair = AlignedPair.from_pretrained(**parts)
    prompts = random_prompts([3, 17, 9])
    ids, mask = left_pad(prompts)
    out = pair.generate(input_ids=ids, attention_mask=mask, max_new_tokens=STEPS, pad_token_id=PAD, eos_token_id=EOS)
    policy, reference = alone(parts, "policy"), alone(parts, "reference")
    for prompt, row in zip(prompts, out[:, ids.shape[1] :].tolist(), strict=True):
        run = naive_aad(policy, reference, prompt, STEPS, 0.1, EOS)
        for step, (token, wanted) in enumerate(zip(row, run.tokens, strict=False)):
            if token != wanted:
                assert run.margins[step] < CLOSE, f"step {step}: {token}, the naive loop chooses {wanted}"
                break
    return pair


FLAT = ["q_proj", "v_proj", "fc1", "fc2"]


def test_a_base_that_flattens_its_rows(tmp_path):
    """OPT's decoder makes (B·T, H) of its input: rows of a batch cannot be told apart there."""
    on = base(tmp_path, "opt")
    one = lora(tmp_path, on, target_modules=FLAT)
    assert check({"reference": on, "adapter": one}).proof.path == "one side after the other"
    both = {"base": on, "adapter": one, "reference_adapter": lora(tmp_path, on, "other", target_modules=FLAT)}
    assert check(both).proof.path == "one side after the other"
    attention = lora(tmp_path, on, "attention", target_modules=FLAT[:2])
    assert check({"reference": on, "adapter": attention}).proof.path == "shared rows"


@pytest.mark.parametrize("arch", ["mamba", pytest.param("mamba2", marks=slow)])
def test_recurrent_models(tmp_path, arch):
    on = base(tmp_path, arch)
    pair = check({"policy": on, "reference": moved(tmp_path, on)})
    for option in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": pair.sides.policy}):
        with pytest.raises(ConfigError, match="cannot take back tokens"):
            pair.generate(input_ids=torch.tensor([[1, 2, 3]]), max_new_tokens=3, **option)
    if arch == "mamba":
        check({"reference": on, "adapter": lora(tmp_path, on, target_modules=["in_proj", "x_proj"])})


@slow
@pytest.mark.parametrize("arch", ["bamba", "falcon_h1"])
def test_hybrids_refuse_drafts_as_transformers_does(tmp_path, arch):
    on = base(tmp_path, arch)
    pair = check({"policy": on, "reference": moved(tmp_path, on)})
    with pytest.raises(ConfigError, match=r"prompt_lookup_num_tokens: .*cannot take back tokens"):
        pair.generate(input_ids=torch.tensor([[1, 2, 3] * 3]), max_new_tokens=3, prompt_lookup_num_tokens=3)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_that_rewrites_its_base_is_refused(tmp_path, start):
    on = base(tmp_path, "llama")
    adapter = lora(tmp_path, on, target_modules=["q_proj", "v_proj"], init_lora_weights=start)
    with pytest.raises(
        ConfigError, match=r"rewrote 4 of the base's own weights .*merge it and pass policy=…,reference=…"
    ):
        AlignedPair.from_pretrained(reference=on, adapter=adapter)


@slow
@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]},
        {"target_modules": "all-linear"},
    ],
)
def test_adapters_on_experts(tmp_path, config):
    on = base(tmp_path, "mixtral")
    assert check({"reference": on, "adapter": lora(tmp_path, on, **config)}).proof.path == "one side after the other"


def test_a_head_saved_by_one_of_two_adapters(tmp_path):
    on = base(tmp_path, "llama")
    plain = lora(tmp_path, on, "plain", target_modules=["q_proj"])
    head = lora(tmp_path, on, "with_head", target_modules=["q_proj"], modules_to_save=["lm_head"])
    check({"base": on, "adapter": head, "reference_adapter": plain})
    check({"base": on, "adapter": plain, "reference_adapter": head})
    check({"reference": on, "adapter": head})


@slow
def test_a_saved_router(tmp_path):
    on = base(tmp_path, "qwen3_moe")
    check({"reference": on, "adapter": lora(tmp_path, on, target_modules=["q_proj"], modules_to_save=["gate"])})


def test_a_static_cache_that_a_model_cannot_use_is_one_line(tmp_path):
    on = base(tmp_path, "bloom")
    pair = check({"policy": on, "reference": moved(tmp_path, on)})
    with pytest.raises(ProofFailed, match=r"static cache would change this pair's tokens: .*leave it out"):
        pair.generate(input_ids=torch.tensor([[1, 2, 3]]), max_new_tokens=3, cache_implementation="static")


def grown(folder: Path, on: str, saved: str) -> str:
    """An adapter trained after two tokens were added, with its tokenizer beside it."""
    model = AutoModelForCausalLM.from_pretrained(on)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<a>", "<b>"])
    model.resize_token_embeddings(len(tokenizer))
    ways = {
        "modules": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        "beside": {"target_modules": ["q_proj"]},  # PEFT saves grown embeddings by itself
        "LoRA": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    }
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **ways[saved]))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                weight.add_(torch.randn_like(weight) * 0.25)
            if "modules_to_save" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    adapted.peft_config["default"].base_model_name_or_path = on
    adapted.save_pretrained(folder / saved, save_embedding_layers=saved != "modules")
    tokenizer.save_pretrained(folder / saved)
    return str(folder / saved)


@pytest.mark.parametrize("saved", ["modules", "beside", "LoRA"])
def test_an_adapter_with_grown_embeddings_decodes_over_the_shared_ids(tmp_path, saved):
    """C8: 260 rows on a base of 258."""
    on = base(tmp_path, "llama")
    adapter = grown(tmp_path, on, saved)
    with pytest.raises(ConfigError, match=rf"trained with 260 tokens, its base .* has 258, .*pass tokenizer={on}"):
        AlignedPair.from_pretrained(reference=on, adapter=adapter)
    pair = AlignedPair.from_pretrained(reference=on, adapter=adapter, tokenizer=on)
    assert pair.vocab_size == VOCAB and pair.proof.path == "shared rows"
    larger = AutoModelForCausalLM.from_pretrained(on)
    larger.resize_token_embeddings(260, mean_resizing=False)
    policy = model_logits(PeftModel.from_pretrained(larger, adapter).eval())
    prompt = random_prompts([9])[0]
    run = naive_aad(lambda ids: policy(ids)[:VOCAB], alone({"reference": on}, "reference"), prompt, STEPS, 0.1, EOS)
    out = pair.generate(input_ids=torch.tensor([prompt]), max_new_tokens=STEPS, pad_token_id=PAD, eos_token_id=EOS)
    assert out[0, len(prompt) :].tolist() == run.tokens and min(run.margins) > CLOSE


def test_a_pad_added_to_the_policy_alone(tmp_path):
    """C9: the line names the remedy, which works."""
    reference = base(tmp_path, "llama")
    policy = Path(moved(tmp_path, reference))
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["[PAD]"], special_tokens=True)
    tokenizer.save_pretrained(policy)
    model = AutoModelForCausalLM.from_pretrained(policy)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(policy)
    with pytest.raises(VocabMismatch, match="only added to the policy's: pass tokenizer=<the reference's>"):
        AlignedPair.from_pretrained(policy=str(policy), reference=reference)
    pair = AlignedPair.from_pretrained(policy=str(policy), reference=reference, tokenizer=reference)
    ids, mask = left_pad(random_prompts([3, 9]))
    out = pair.generate(input_ids=ids, attention_mask=mask, max_new_tokens=STEPS, pad_token_id=PAD, eos_token_id=None)
    assert int(out.max()) < VOCAB


def test_a_pad_of_minus_one(tmp_path):
    """Some checkpoints write −1 for no pad token."""
    from aad_plugin import answer

    on = base(tmp_path, "llama")
    reference = moved(tmp_path, on)
    for name in ("config.json", "generation_config.json"):
        file = Path(on) / name
        file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token_id": -1}))
    pair = AlignedPair.from_pretrained(policy=on, reference=reference)
    prompts = ["a", "some more words", "words"]
    together = answer(pair, prompts, max_new_tokens=8, chat=False)
    assert together == [answer(pair, [prompt], max_new_tokens=8, chat=False)[0] for prompt in prompts]
