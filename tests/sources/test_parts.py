"""What names and folders prove about a pair; the reference is never guessed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from aad_plugin.errors import ConfigError, ReferenceUnknown, VocabMismatch
from aad_plugin.harness.model import AADLM
from aad_plugin.pair.model import load_pair
from aad_plugin.sources.parts import resolve
from aad_plugin.sources.presets import PRESETS
from tests.pairs import KINDS
from tests.toys import PAD, byte_tokenizer, random_prompts

CARD = """---
base_model: {base}
tags: [trl, dpo]
---
This model was trained with DPO, a method introduced in a paper.
### Framework versions
- TRL: {version}
"""


def adapter_folder(tmp_path, base, **extra) -> str:
    folder = tmp_path / "dpo"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "peft_type": "LORA"}))
    for name, text in extra.items():
        target = folder / name.replace("__", "/").replace("_md", ".md").replace("_json", ".json")
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    return str(folder)


def test_every_preset_names_two_hub_ids():
    for name, preset in PRESETS.items():
        if not preset.embedded:
            source = resolve(name)
            assert (source.policy, source.reference) == (preset.policy, preset.reference)
            assert source.policy.count("/") == source.reference.count("/") == 1


def test_pretrained_is_an_alias_of_policy_or_pair(checkpoints):
    args = checkpoints.model_args("two_models")
    assert resolve(pretrained=args["policy"], reference=args["reference"]).policy == args["policy"]
    assert resolve(pretrained="olmo2-1b").preset == "olmo2-1b"


def test_trl_folder_with_ref_adapter(tmp_path):
    folder = adapter_folder(tmp_path, "owner/base", ref__adapter_config_json="{}")
    source = resolve(folder)
    assert (source.base, source.adapter, source.reference_adapter) == ("owner/base", folder, f"{folder}/ref")


def test_trl_folder_with_a_model_card_of_a_fresh_adapter(tmp_path):
    folder = adapter_folder(tmp_path, "owner/base", README_md=CARD.format(base="owner/base", version="1.16.0"))
    source = resolve(folder)
    assert (source.base, source.reference_adapter) == ("owner/base", None)


@pytest.mark.parametrize(
    "card", ["", CARD.format(base="owner/base", version="0.9.6"), "trained with SFT\n- TRL: 1.16.0"]
)
def test_an_adapter_that_proves_nothing(tmp_path, card):
    folder = adapter_folder(tmp_path, "owner/base", README_md=card)
    with pytest.raises(ReferenceUnknown, match=f"pass reference=owner/base,adapter={folder} if training started from"):
        resolve(folder)


def test_a_full_checkpoint_needs_a_card_that_names_its_start(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ReferenceUnknown, match=f"policy={tmp_path},reference=<the SFT checkpoint>"):
        resolve(str(tmp_path))
    (tmp_path / "README.md").write_text(CARD.format(base="owner/sft", version="1.0.0"))
    assert resolve(str(tmp_path)).reference == "owner/sft"


@pytest.mark.parametrize(
    ("parts", "kind", "message"),
    [
        ({}, ConfigError, "a pair is given as pair=<preset"),
        ({"policy": "o/p"}, ReferenceUnknown, "without its reference"),
        ({"reference": "o/r"}, ConfigError, "got reference=…"),
        ({"base": "o/b", "adapter": "o/a"}, ReferenceUnknown, "reference=<base>,adapter=…"),
        ({"pair": "demo", "policy": "o/p"}, ConfigError, "already names every part, got policy"),
        ({"pair": "dem"}, ConfigError, "did you mean 'demo'"),
        ({"policy": "./nowhere", "reference": "o/r"}, ConfigError, "policy: no folder './nowhere' here"),
    ],
)
def test_incomplete_or_contradictory(parts, kind, message):
    with pytest.raises(kind, match=message):
        resolve(**parts)


def test_an_adapter_given_as_policy(checkpoints):
    with pytest.raises(ConfigError, match="is a LoRA adapter, expected a full checkpoint"):
        resolve(policy=str(checkpoints.adapter), reference=str(checkpoints.base))


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_a_pair_folder_keeps_every_token(checkpoints, tmp_path, kind):
    pair = load_pair(**checkpoints.model_args(kind), alpha=0.3)
    pair.save_pretrained(tmp_path / "pair")
    again = load_pair(str(tmp_path / "pair"))
    prompt = torch.tensor([random_prompts([9])[0]])
    options = dict(input_ids=prompt, max_new_tokens=16, pad_token_id=PAD)
    assert torch.equal(pair.generate(**options), again.generate(**options))
    assert again.settings.alpha == 0.3
    assert load_pair(str(tmp_path / "pair"), alpha=0.4).settings.alpha == 0.4
    size = sum(file.stat().st_size for file in (tmp_path / "pair").rglob("*") if file.is_file())
    weights = (checkpoints.base / "model.safetensors").stat().st_size
    assert size < weights, "a pair folder points to checkpoints, it does not copy them"


@pytest.mark.parametrize(("options", "named"), [
    ({"revision": "v1", "reference_revision": "main"}, "revision,"), ({"tokenizer": "other"}, "tokenizer,"),
    ({"enable_thinking": False, "chat_template_args": {"documents": []}}, "chat_template_args,"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 2.0}}, "rope_parameters,"),
    ({"dtype": "bfloat16", "device": "cpu", "attn_implementation": "eager", "revision": "main"}, None),
], ids=str)  # fmt: skip
def test_a_pair_that_a_folder_would_not_load_again_is_not_saved(checkpoints, tmp_path, aad, options, named):
    """Was: the folder loaded the main revision, the default tokenizer …, and nobody was told."""
    words = checkpoints.model_args("two_models")
    if "tokenizer" in options:
        other = AutoTokenizer.from_pretrained(words["policy"])
        other.chat_template = "{{ messages[0].content }}"
        other.save_pretrained(tmp_path / "tokenizer")
        options = {"tokenizer": str(tmp_path / "tokenizer")}
    pair, target = load_pair(**words, **options), tmp_path / "pair"
    if named is None:
        pair.save_pretrained(target)
        assert (target / "config.json").is_file()
        return
    with pytest.raises(ConfigError, match=f"keeps a pair's parts and settings, and not .*{named} without which"):
        pair.save_pretrained(target)
    given = json.dumps({**words, **options})
    assert "would load as another pair" in str(aad("pairs", "save", target, "--model-args", given).exception)
    assert not target.exists()


def test_a_pair_of_the_harness_is_saved_by_the_same_rule(checkpoints, tmp_path):
    words = checkpoints.model_args("two_models")
    same = {"tokenizer": words["policy"], "use_cache": True}
    AADLM(**words, **same, device="cpu", batch_size=2, dtype="float32").model.save_pretrained(tmp_path / "pair")
    with pytest.raises(ConfigError, match="and not revision, without which"):
        AADLM(**words, device="cpu", revision="v1").model.save_pretrained(tmp_path / "other")


def test_saving_over_another_model_is_refused(checkpoints):
    pair = load_pair(**checkpoints.model_args("two_models"))
    with pytest.raises(ConfigError, match="belongs to another model"):
        pair.save_pretrained(str(checkpoints.policy))


@pytest.mark.parametrize("kind", ["reference_plus_lora", "two_adapters"])
def test_adapters_hold_the_base_once(checkpoints, kind):
    pair = load_pair(**checkpoints.model_args(kind))
    base = load_pair(**checkpoints.model_args("two_models")).sides.policy_model
    adapters = sum(p.numel() for name, p in pair.named_parameters() if "lora_" in name)
    assert sum(p.numel() for p in pair.parameters()) == adapters + sum(p.numel() for p in base.parameters())


def test_different_token_maps(checkpoints, tmp_path):
    import shutil

    other = tmp_path / "reference"
    shutil.copytree(checkpoints.reference, other)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(VocabMismatch, match=r"1 tokens differ, first '<extra>': policy None, reference 258"):
        load_pair(policy=str(checkpoints.policy), reference=str(other))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"dtpe": "float32"}, "unknown model_arg 'dtpe' .did you mean 'dtype'"),
        ({"dtype": "float17"}, "dtype must be 'auto' or a torch dtype"),
        ({"alpha": 7}, "alpha must be"),
    ],
)
def test_bad_options(checkpoints, extra, message):
    with pytest.raises(ConfigError, match=message):
        load_pair(**checkpoints.model_args("two_models"), **extra)


def test_reference_options_need_a_model_of_their_own(checkpoints):
    with pytest.raises(ConfigError, match=r"share one base model, so .*reference_device"):
        load_pair(**checkpoints.model_args("reference_plus_lora"), reference_device="cpu", device="meta")
    pair = load_pair(**checkpoints.model_args("two_models"), reference_dtype="bfloat16", dtype="float32")
    assert pair.sides.policy_model.dtype == torch.float32
    assert pair.sides.reference_model.dtype == torch.bfloat16


def test_an_adapter_of_another_base(checkpoints, tmp_path):
    """Its configuration names a base that is not here, so the loader is the first to see that the shapes differ."""
    import shutil

    from tests.toys import toy_model

    adapter = Path(shutil.copytree(checkpoints.adapter, tmp_path / "adapter"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "owner/gpt2"}))

    other = tmp_path / "gpt2"
    toy_model("gpt2", 0).save_pretrained(other)
    byte_tokenizer().save_pretrained(other)
    with pytest.raises(ConfigError, match=r"adapter .* does not fit base"):
        load_pair(reference=str(other), adapter=str(adapter))


def test_a_base_that_is_not_the_adapters(checkpoints, tmp_path, caplog):
    """Same shapes, other numbers: PEFT loads it without a word, and every log-ratio would be of the wrong model."""
    import shutil

    with pytest.raises(ConfigError) as caught:
        resolve(reference=str(checkpoints.reference), adapter=str(checkpoints.adapter))
    assert str(caught.value) == (
        f"adapter {checkpoints.adapter} was trained on {checkpoints.base}, reference={checkpoints.reference} holds other "
        f"weights: pass reference={checkpoints.base}"
    )
    moved = shutil.copytree(checkpoints.base, tmp_path / "moved")
    assert resolve(reference=str(moved), adapter=str(checkpoints.adapter)).base == str(moved)
    assert not caplog.records
    resolve(reference="owner/other", adapter=str(checkpoints.adapter))
    assert "was trained on" in caplog.text and "is it the same model?" in caplog.text


def test_a_device_of_none_is_no_device(checkpoints):
    pair = load_pair(**checkpoints.model_args("two_models"), device=None)
    assert pair.sides.policy.device.type == "cpu"


def test_a_base_that_differs_in_its_middle_is_another_base(tmp_path):
    from aad_plugin.sources.adapter_base import check_adapter_base

    for name in ("one", "two", "adapter"):
        (tmp_path / name).mkdir()
    content = bytearray(range(256)) * 8192  # two MiB, of which the last was compared
    (tmp_path / "one" / "model.safetensors").write_bytes(content)
    (tmp_path / "two" / "model.safetensors").write_bytes(content)
    config = json.dumps({"base_model_name_or_path": str(tmp_path / "one")})
    (tmp_path / "adapter" / "adapter_config.json").write_text(config)
    check_adapter_base(str(tmp_path / "adapter"), str(tmp_path / "two"), "reference")
    content[1000] ^= 1
    (tmp_path / "two" / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="holds other weights"):
        check_adapter_base(str(tmp_path / "adapter"), str(tmp_path / "two"), "reference")


def on_hub(monkeypatch, cache, name, **revisions) -> None:
    """Lay folders out as the hub's client does, each as a revision of one hub id; no network is asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    for number, (revision, folder) in enumerate(revisions.items()):
        shutil.copytree(folder, home / "snapshots" / (str(number) * 40))
        (home / "refs" / revision).write_text(str(number) * 40)


@pytest.mark.parametrize(
    "loader", [load_pair, lambda **words: AADLM(**words, device="cpu").model], ids=["pair", "lm-eval"]
)
def test_an_adapter_on_the_hub_is_read_with_the_tokenizer_beside_it(checkpoints, tmp_path, monkeypatch, loader):
    """Was: the base's, whatever the adapter was saved with; the same files in a folder were used."""
    plain, own = tmp_path / "plain", tmp_path / "own"
    for folder in (plain, own):
        shutil.copytree(checkpoints.adapter, folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }} of the adapter"
    tokenizer.save_pretrained(own)
    name = f"org/{loader.__name__.strip('<>')}-adapter"  # what is known of a hub id is known for a whole process
    on_hub(monkeypatch, tmp_path / "hub", name, main=plain, v1=own)
    found = {
        revision: loader(reference=str(checkpoints.base), adapter=name, **({"revision": revision} if revision else {}))
        for revision in (None, "v1")
    }
    assert found["v1"].tokenizer.chat_template == tokenizer.chat_template
    assert found[None].tokenizer.chat_template == byte_tokenizer().chat_template, (
        "the main revision has none of its own"
    )


def test_the_base_of_an_adapter_on_the_hub_is_looked_at(checkpoints, tmp_path, monkeypatch, caplog):
    for name, change in (("elsewhere", {}), ("revised", {"revision": "step-100"})):
        folder = tmp_path / name
        shutil.copytree(checkpoints.adapter, folder)
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text()) | {"base_model_name_or_path": "org/another-base"} | change
        file.write_text(json.dumps(config))
        on_hub(monkeypatch, tmp_path / "hub", f"org/{name}", main=folder)
    load_pair(reference=str(checkpoints.base), adapter="org/elsewhere")
    assert "adapter org/elsewhere was trained on org/another-base" in caplog.text
    with pytest.raises(ConfigError, match="adapter org/revised was trained on revision step-100 of org/another-base"):
        load_pair(reference=str(checkpoints.base), adapter="org/revised")
