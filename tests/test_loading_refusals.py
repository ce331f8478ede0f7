"""What would load something other than was asked, or end in a traceback, is refused in one line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from aad_plugin.answers import answer
from aad_plugin.errors import ConfigError, ReferenceUnknown, first_line
from aad_plugin.harness.model import AADLM
from aad_plugin.load import load_pair
from aad_plugin.pair_source import resolve

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
