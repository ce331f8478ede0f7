"""What would load something other than was asked, or end in a traceback, is refused in one line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
)

from aad_plugin.errors import ConfigError, ReferenceUnknown, first_line
from aad_plugin.harness.model import AADLM
from aad_plugin.judges.kinds.specs import load_judge
from aad_plugin.pair import attaching
from aad_plugin.pair.answering import answer
from aad_plugin.pair.model import load_pair
from aad_plugin.pair.stopping import end_ids
from aad_plugin.sources.attached import attached
from aad_plugin.sources.merging import refuse_pickles, with_template
from aad_plugin.sources.parts import PairSource, resolve
from tests.pairs import toy_pair
from tests.toys import byte_tokenizer

LOADERS = [load_pair, lambda **arguments: AADLM(**arguments, device="cpu")]
both = pytest.mark.parametrize("load", LOADERS, ids=["load_pair", "lm-eval"])


def renamed(adapter, folder, rename) -> str:
    shutil.copytree(adapter, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {name: tensor for old, tensor in tensors.items() if (name := rename(old))}
    save_file(found, folder / "adapter_model.safetensors")
    return str(folder)


@both
@pytest.mark.parametrize(("rename", "message"), [
    (lambda name: name.replace("model.layers", "model.language_model.layers"), r"\d+ tensors of adapter .* found no layer"),
    (lambda name: name.replace("layers.1", "layers.9"), r"\d+ tensors of adapter .* found no layer"),
    (lambda name: None, "holds none of the"),
], ids=["all", "some", "empty"])  # fmt: skip
def test_an_adapter_whose_tensors_match_no_layer_is_refused(load, checkpoints, tmp_path, rename, message):
    adapter = renamed(checkpoints.adapter, tmp_path / "adapter", rename)
    with pytest.raises(ConfigError, match=message):
        load(reference=str(checkpoints.base), adapter=adapter)
    with pytest.raises(ConfigError, match=message):
        load(base=str(checkpoints.base), reference_adapter=adapter, adapter=str(checkpoints.adapter))


@both
def test_pickled_weights_are_read_only_when_asked_for(load, checkpoints, tmp_path):
    policy = shutil.copytree(checkpoints.policy, tmp_path / "policy")
    model = AutoModelForCausalLM.from_pretrained(policy)
    torch.save({name: tensor.clone() for name, tensor in model.state_dict().items()}, policy / "pytorch_model.bin")
    (policy / "model.safetensors").unlink()
    arguments = {"policy": str(policy), "reference": str(checkpoints.reference)}
    with pytest.raises(ConfigError, match=r"holds its weights as pickles .*use_safetensors=false"):
        load(**arguments)
    shutil.copyfile(checkpoints.reference / "config.json", tmp_path / "config.json")
    both_pickled = {"policy": str(policy), "reference": str(policy), "use_safetensors": False}
    load(**both_pickled)


@both
def test_a_pickled_adapter_too(load, checkpoints, tmp_path):
    adapter = shutil.copytree(checkpoints.adapter, tmp_path / "adapter")
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"holds its weights as a pickle .*use_safetensors=false"):
        load(reference=str(checkpoints.base), adapter=str(adapter))


@both
def test_a_missing_package_is_one_line_with_its_name(load, checkpoints):
    with pytest.raises(ConfigError, match=r"(?i)flash.?attention|flash_attn") as refused:
        load(**checkpoints.model_args("two_models"), attn_implementation="flash_attention_2")
    assert "\n" not in str(refused.value)


@both
@pytest.mark.parametrize(("config", "package"), [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    ({"quant_method": "gptq", "bits": 4}, "optimum|gptq"),
    ({"quant_method": "awq", "bits": 4}, "gptqmodel|awq"),
    ({"quant_method": "compressed-tensors"}, "compressed.tensors"),
], ids=["bitsandbytes", "gptq", "awq", "compressed-tensors"])  # fmt: skip
def test_a_quantised_reference_without_its_package_is_one_line(load, checkpoints, tmp_path, config, package):
    reference = shutil.copytree(checkpoints.reference, tmp_path / "reference")
    written = json.loads((reference / "config.json").read_text())
    (reference / "config.json").write_text(json.dumps({**written, "quantization_config": config}))
    with pytest.raises(ConfigError, match=f"(?i){package}") as refused:
        load(policy=str(checkpoints.policy), reference=str(reference))
    assert "\n" not in str(refused.value)


def test_the_first_line_of_an_error_has_text():
    assert first_line(ValueError("\n\n  why \n more")) == "why"
    assert first_line(AssertionError()) == "AssertionError"
    assert (
        first_line(ModuleNotFoundError("No module named 'x.y'", name="x.y")) == "No module named 'x.y' (pip install x)"
    )


CARD = "---\nbase_model: {}\n---\n\nThis model was trained with DPO\n\n- TRL: 0.25\n"


@pytest.mark.parametrize("base", ["owner/sft", "'owner/sft'", "[owner/sft]", "\n- owner/sft"])
def test_a_card_names_its_base_as_text_or_as_a_list_of_one(tmp_path, base):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "README.md").write_text(CARD.format(base))
    assert resolve(str(tmp_path)).reference == "owner/sft"


@pytest.mark.parametrize("base", ["\n- owner/a\n- owner/b", "[]", "", "{a: b}", "[[x]]"])
def test_a_card_that_names_none_or_several_proves_nothing(tmp_path, base):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "README.md").write_text(CARD.format(base))
    with pytest.raises(ReferenceUnknown):
        resolve(str(tmp_path))


def test_serve_without_a_pair_hands_its_options_on(aad, checkpoints):
    named = ",".join(f"{name}={value}" for name, value in checkpoints.model_args("two_models").items())
    planned = aad("serve", "--model-args", named, "--plan", "80", "--max-model-len", "256")
    assert "already names every part" not in str(planned.output) + str(planned.exception)
    assert planned.exit_code == 0, planned.exception


def test_a_loaded_pair_still_answers(checkpoints):
    assert answer(load_pair(**checkpoints.model_args("two_adapters")), ["Hello"], max_new_tokens=4)


@pytest.mark.parametrize("kind", ["reward", "classifier", "hf"])
def test_a_judges_pickled_weights_are_read_only_when_asked_for(kind, tmp_path):
    config = LlamaConfig(
        vocab_size=260, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_labels=1 if kind == "reward" else 2, pad_token_id=0,
    )  # fmt: skip
    model = (LlamaForCausalLM if kind == "hf" else LlamaForSequenceClassification)(config)
    model.save_pretrained(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"holds its weights as pickles .*use_safetensors=false"):
        load_judge(f"{kind}:{tmp_path}")
    load_judge(f"{kind}:{tmp_path},use_safetensors=false")


def test_the_engine_reads_pickles_only_when_asked_for(checkpoints, tmp_path):
    """vLLM falls back to pickles by itself."""
    policy = shutil.copytree(checkpoints.policy, tmp_path / "policy")
    (policy / "model.safetensors").rename(policy / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"holds its weights as pickles .*load_format=pt"):
        refuse_pickles(resolve(policy=str(policy), reference=str(checkpoints.reference)))
    adapter = shutil.copytree(checkpoints.adapter, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"holds its weights as a pickle .*load_format=pt"):
        refuse_pickles(resolve(reference=str(checkpoints.base), adapter=str(adapter)))


@both
def test_code_of_one_part_is_trusted_without_the_other(load, checkpoints, tmp_path):
    """A configuration that names code of its own is loaded for the part that is trusted alone."""
    own = shutil.copytree(checkpoints.reference, tmp_path / "own")
    written = json.loads((own / "config.json").read_text())
    code = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddForCausalLM"}
    (own / "config.json").write_text(json.dumps({**written, "model_type": "odd", "auto_map": code}))
    (own / "odd.py").write_text(ODD)
    plain = str(checkpoints.policy)
    with pytest.raises(ConfigError, match="trust_remote_code"):
        load(policy=plain, reference=str(own), trust_remote_code=True, reference_trust_remote_code=False)
    with pytest.raises(ConfigError, match="trust_remote_code"):
        load(policy=str(own), reference=plain, reference_trust_remote_code=True)
    load(policy=plain, reference=str(own), reference_trust_remote_code=True)
    with pytest.raises(ConfigError, match=r"share one base model, .*reference_trust_remote_code.* no meaning here"):
        load(**checkpoints.model_args("reference_plus_lora"), reference_trust_remote_code=True)


ODD = """
from transformers import LlamaConfig, LlamaForCausalLM

class OddConfig(LlamaConfig):
    model_type = "odd"

class OddForCausalLM(LlamaForCausalLM):
    config_class = OddConfig
"""


def test_a_served_adapter_borrows_its_bases_template(checkpoints, tmp_path, monkeypatch):
    """vLLM reads the tokenizer's folder by itself and refuses chats where it holds no template."""
    monkeypatch.setenv("AAD_CACHE_DIR", str(tmp_path / "cache"))
    base = shutil.copytree(checkpoints.base, tmp_path / "base")
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(base)
    adapter = shutil.copytree(checkpoints.adapter, tmp_path / "adapter")
    source = resolve(reference=str(base), adapter=str(adapter))
    assert with_template(source) == str(base)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(adapter)
    (adapter / "chat_template.jinja").unlink(missing_ok=True)
    for _ in range(2):
        found = with_template(source)
        assert AutoTokenizer.from_pretrained(found).chat_template == template
    assert found not in (str(base), str(adapter))
    tokenizer.chat_template = "own"
    tokenizer.save_pretrained(adapter)
    assert with_template(source) == str(adapter)


def test_a_pair_in_memory_is_proven_too():
    pair = toy_pair("two_models").pair
    assert pair.proof is None
    assert AADLM(pretrained=pair, device="cpu").model.proof.path == "two models"


def test_an_adapter_saved_over_another_leaves_nothing_of_it(tmp_path):
    from aad_plugin.sources.folder import _copy_adapter

    for name, files in (
        ("one", ["adapter_model.safetensors", "chat_template.jinja", "README.md"]),
        ("two", ["adapter_model.bin"]),
    ):
        (tmp_path / name).mkdir()
        for file in ["adapter_config.json", *files]:
            (tmp_path / name / file).write_text(name)
    for name in ("one", "two", "two"):
        assert _copy_adapter(tmp_path / name, tmp_path / "saved") == "saved"
    (tmp_path / "saved" / "notes.txt").write_text("a user's own")
    _copy_adapter(tmp_path / "saved", tmp_path / "saved")
    assert {file.name for file in (tmp_path / "saved").iterdir()} == {
        "adapter_config.json",
        "adapter_model.bin",
        "notes.txt",
    }


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_an_encoder_decoder_is_refused_before_its_weights_are_read(tmp_path, kind):
    """lm-eval's class would read it as one, with the prompt in the answer."""
    configs = {
        "bart": BartConfig(vocab_size=300, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                           decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16),
        "t5": T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2),
    }  # fmt: skip
    configs[kind].save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=rf"is an encoder-decoder \({kind}\): expected two causal language models"):
        AADLM(policy=str(tmp_path), reference=str(tmp_path), device="cpu")


def test_both_adapters_on_the_hub_are_read_at_the_revision(checkpoints, monkeypatch):
    from peft import PeftModel

    asked, load = {}, PeftModel.load_adapter
    homes = {"hub/sft": checkpoints.sft_adapter, "hub/dpo": checkpoints.adapter}

    def load_adapter(self, path, adapter_name, **options):
        asked[adapter_name] = options.pop("revision", None)
        return load(self, homes.get(path, path), adapter_name)

    monkeypatch.setattr(attaching, "attached", lambda base, path, adapter_name, **_: attached(
        base, str(checkpoints.adapter), adapter_name=adapter_name
    ))  # fmt: skip
    monkeypatch.setattr(PeftModel, "load_adapter", load_adapter)
    monkeypatch.setattr(attaching, "_check_tensors", lambda *_: None)
    monkeypatch.setattr(attaching, "_rows", lambda *_: 0)
    source = PairSource(base=str(checkpoints.base), adapter="hub/dpo", reference_adapter="hub/sft")
    base = AutoModelForCausalLM.from_pretrained(checkpoints.base)
    attaching.attach_adapters(base, source, "v2", vocab_size=257, pickles=True)
    assert asked == {"policy": "v2", "reference": "v2"}


def test_an_end_token_of_minus_one_is_none():
    assert end_ids(-1) == [] and end_ids([7, -1]) == [7] and end_ids(0) == [0]


@pytest.mark.parametrize("revision", ["step500", "main", None, ""])
def test_an_adapter_of_another_revision_of_a_hub_model_is_refused(tmp_path, revision):
    """Was: the main revision was read, and called proven."""
    from aad_plugin.sources.adapter_base import refuse_base_revision

    config = {"base_model_name_or_path": "owner/base", "revision": revision}
    if revision != "step500":
        refuse_base_revision(config, tmp_path)
        return
    with pytest.raises(
        ConfigError, match="was trained on revision step500 of owner/base, and the main one would be read"
    ):
        refuse_base_revision(config, tmp_path)
    refuse_base_revision({**config, "base_model_name_or_path": str(tmp_path)}, tmp_path)
