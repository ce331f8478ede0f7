"""A checkpoint that lacks weights is refused wherever a model is loaded: transformers would draw them at random."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from aad_plugin.errors import ConfigError
from aad_plugin.harness.model import AADLM
from aad_plugin.judges.kinds.reward import RewardModel
from aad_plugin.judges.kinds.specs import load_judge
from aad_plugin.pair.model import load_pair
from aad_plugin.sources.extrapolating import save_expo
from aad_plugin.sources.parts import resolve
from aad_plugin.study.decoding import load_wrong_reference
from tests.toys import byte_tokenizer

LACKS = r"lacks 1 of the \d+ weights of Llama\w+ \(first {}\), which would be random"


def toy(folder, drop=None, **config) -> str:
    """A checkpoint of a tiny model, without one of its weights."""
    tokenizer = byte_tokenizer()
    sizes = dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
    )
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, **sizes, **config)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({name: value for name, value in weights.items() if name != drop}, path, metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize("weight", ["lm_head.weight", "model.layers.0.mlp.up_proj.weight"])
@pytest.mark.parametrize("lacking", ["policy", "reference"])
@pytest.mark.parametrize(
    "load",
    [
        load_pair,
        lambda **parts: AADLM(**parts, device="cpu"),
        lambda **parts: save_expo(resolve(**parts), 0.5, parts["policy"] + "_expo"),
    ],
    ids=["load_pair", "lm-eval", "expo"],
)
def test_of_a_pair(load, lacking, weight, tmp_path):
    parts = {role: toy(tmp_path / role, drop=weight if role == lacking else None) for role in ("policy", "reference")}
    with pytest.raises(ConfigError, match=LACKS.format(weight)):
        load(**parts)


def test_a_head_that_shares_the_embeddings_is_not_lacking(tmp_path):
    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=300
    )
    config.tie_word_embeddings = True
    for role in ("policy", "reference"):
        LlamaForCausalLM(config).save_pretrained(tmp_path / role)
        byte_tokenizer().save_pretrained(tmp_path / role)
    load_pair(policy=str(tmp_path / "policy"), reference=str(tmp_path / "reference"))


@pytest.mark.parametrize("option", ["guide", "draft_model"])
def test_of_what_helps_a_pair(option, tmp_path):
    parts = {role: toy(tmp_path / role) for role in ("policy", "reference")}
    with pytest.raises(ConfigError, match=LACKS.format("lm_head.weight")):
        load_pair(**parts, **{option: toy(tmp_path / "lacking", drop="lm_head.weight")})


def test_of_a_wrong_reference(tmp_path):
    parts = {role: toy(tmp_path / role) for role in ("policy", "reference")}
    with pytest.raises(ConfigError, match=LACKS.format("lm_head.weight")):
        load_wrong_reference(load_pair(**parts), toy(tmp_path / "lacking", drop="lm_head.weight"))


def test_of_judges(tmp_path):
    language_model = toy(tmp_path / "lm", num_labels=2)
    with pytest.raises(ConfigError, match=LACKS.format("score.weight")):
        load_judge(f"classifier:{language_model}")
    with pytest.raises(ConfigError, match=LACKS.format("score.weight")):
        RewardModel.load(toy(tmp_path / "one", num_labels=1))
    with pytest.raises(ConfigError, match=LACKS.format("lm_head.weight")):
        load_judge(f"hf:{toy(tmp_path / 'chat', drop='lm_head.weight')}")


def test_a_head_that_an_adapter_brings_is_not_lacking(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = toy(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])).save_pretrained(
        tmp_path / "a"
    )
    assert len(RewardModel.load(str(tmp_path / "a")).score([("a prompt", "an answer")])) == 1
    weights = load_file(tmp_path / "a" / "adapter_model.safetensors")
    save_file({n: v for n, v in weights.items() if "score" not in n}, tmp_path / "a" / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=LACKS.format("score.weight")):
        RewardModel.load(str(tmp_path / "a"))
