"""The demo pair that sees: put together in the cache from a toy base and random parts, and with its real weights."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aad_plugin.demo import assets, vision
from aad_plugin.demo.vision_model import TOKENS, load_tower, merge_lora, new_vision_model, vision_processor
from aad_plugin.errors import AssetError
from experiments.demo_vision import sft
from experiments.demo_vision.drawing import scene
from experiments.demo_vision.questions import Question
from experiments.demo_vision.shipping import export_policy, export_reference
from tests.toys import byte_tokenizer

QUESTION = Question("probe", "Is there a red ring?", "no", "yes", "random")
CHAT = sft.chat(QUESTION, None)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A random Llama with SmolLM2's special tokens, as `base_model_path` would return it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base") / "toy"
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *TOKENS]}
    )
    tokenizer.save_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.3,
        eos_token_id=end, pad_token_id=end, bos_token_id=end - 1,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    assets.write_manifest(folder, "a toy")
    return folder


@pytest.fixture(scope="module")
def shipped(base, tmp_path_factory) -> Path:
    """Random parts in the form of the shipped ones, through the functions that export TRL's folders."""
    from peft import LoraConfig, get_peft_model

    folder, work = tmp_path_factory.mktemp("shipped"), tmp_path_factory.mktemp("trl")
    for seed, (name, rank, whole) in enumerate((("sft", 8, ["connector"]), ("dpo", 4, None))):
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=sft.TARGETS, modules_to_save=whole)
        tuned = get_peft_model(new_vision_model(base, seed), lora)
        torch.manual_seed(seed)
        for parameter in (value for name, value in tuned.named_parameters() if "lora_B" in name):
            torch.nn.init.normal_(parameter, std=0.3)
        tuned.save_pretrained(work / name)
    tower = {n: t for n, t in new_vision_model(base, 7).state_dict().items() if "vision_model" in n or "connector" in n}
    export_reference(tower, work / "sft", folder / "reference")
    export_policy(work / "dpo", folder / "policy")
    return folder


@pytest.fixture
def toy(base, shipped, tmp_path, monkeypatch) -> Path:
    """The preset over toy parts; returns the cache."""
    monkeypatch.setenv("AAD_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(vision, "base_model_path", lambda quiet=False: base)
    monkeypatch.setattr(vision, "SHIPPED_VISION", shipped)
    return tmp_path


def test_the_preset_answers_about_a_picture_and_reads_it_once(toy):
    from aad_plugin import AlignedPair, answer

    pair = AlignedPair.from_pretrained("demo-vision", dtype="float32")
    assert pair.proof.path == "shared rows"
    turn = {
        "role": "user",
        "content": [{"type": "image", "image": scene(1).image()}, {"type": "text", "text": QUESTION.text}],
    }
    assert isinstance(answer(pair, [[turn]], max_new_tokens=4)[0], str)


def test_the_reference_is_base_tower_and_merged_adapter(toy, base, shipped):
    from transformers import AutoModelForImageTextToText

    expected = new_vision_model(base)
    load_tower(expected, load_file(shipped / "reference" / vision.TOWER))
    merge_lora(expected, load_file(shipped / "reference" / vision.ADAPTER), 2.0)
    built = AutoModelForImageTextToText.from_pretrained(vision.vision_reference_path())
    wanted = expected.state_dict()
    for name, value in built.state_dict().items():
        assert torch.equal(value, wanted[name]), name


def test_the_reference_is_kept_and_built_again_when_damaged_or_of_other_parts(toy, shipped, tmp_path, caplog):
    folder = vision.vision_reference_path()
    built = (folder / "model.safetensors").stat().st_mtime_ns
    assert vision.vision_reference_path() == folder and (folder / "model.safetensors").stat().st_mtime_ns == built
    (folder / "config.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        vision.vision_reference_path()
    assert "is damaged (config.json has 2 bytes" in caplog.text
    before = json.loads((folder / assets.MANIFEST).read_text())["origin"]
    other = tmp_path / "other"
    (other / "reference").mkdir(parents=True)
    for file in (shipped / "reference").iterdir():
        (other / "reference" / file.name).write_bytes(file.read_bytes())
    tower = load_file(other / "reference" / vision.TOWER)
    save_file({name: value * 2 for name, value in tower.items()}, other / "reference" / vision.TOWER)
    vision.vision_reference_path(shipped=other)
    assert json.loads((folder / assets.MANIFEST).read_text())["origin"] != before


def test_a_missing_part_is_one_line(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(vision, "SHIPPED_VISION", tmp_path / "none")
    with pytest.raises(
        AssetError, match=r"tower\.safetensors is missing: this installation of aad_plugin is incomplete"
    ):
        vision.vision_reference_path()
    with pytest.raises(AssetError, match="is missing"):
        vision.vision_adapter_path()


def test_questions_in_one_row_are_read_as_if_asked_alone(base):
    """The collator's mask and positions: logits of a branch are those of its question after the picture alone."""
    processor = vision_processor(base)
    model = new_vision_model(base).eval()
    collate = sft.Collator(processor)
    image, questions = sft.row(5)
    batch = collate([{"seed": 5}, {"seed": 6}])
    branches = collate._encoded(questions)["branch"]
    labels = batch.pop("labels")
    with torch.no_grad():
        shared = model(**batch).logits[0]
        for number, question in enumerate(questions, start=1):
            text = processor.apply_chat_template(sft.chat(question, question.answer), tokenize=False)
            alone = processor(text=[text], images=[[image]], return_tensors="pt")
            start, length = branches.index(number), branches.count(number)
            torch.testing.assert_close(shared[start : start + length], model(**alone).logits[0, -length:])
            told = [label for label in labels[0, start : start + length].tolist() if label >= 0]
            assert processor.tokenizer.decode(told) == f" {question.answer}<|im_end|>"


def test_the_prompt_is_the_same_with_and_without_a_chat_template(base):
    processor = vision_processor(base)
    text = processor.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert text == f"<image>{QUESTION.text}\n"
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"{QUESTION.text}\n"}]}]
    assert processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) == text
    assert len(processor.tokenizer) == len(byte_tokenizer()) + 3 + len(TOKENS)


def run_task(monkeypatch, folder: Path, **options) -> dict:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from aad_plugin.harness.registration import register_all, tasks_path

    register_all()
    monkeypatch.chdir(folder)
    return lm_eval.simple_evaluate(
        model="aad-multimodal", tasks=["aad_vision_demo"], bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tasks_path()), include_defaults=False), **options,
    )  # fmt: skip


def test_the_task_runs_on_the_preset(toy, tmp_path, monkeypatch, caplog):
    args = {"pair": "demo-vision", "device": "cpu", "dtype": "float32", "batch_size": 8, "answers_dir": "none"}
    found = run_task(monkeypatch, tmp_path, model_args=args, limit=10, gen_kwargs="max_gen_toks=4")
    assert "chat template, which this run does not apply" not in caplog.text, "it would change no prompt"
    figures = found["results"]["aad_vision_demo"]
    assert figures["sample_len"] == 10
    assert 0 <= figures["score_win_rate_low_vs_greedy,none"] <= figures["score_win_rate_vs_greedy,none"] <= 1
    assert {"hallucination_aad,none", "recall_greedy,none", "invented_best_of_2,none"} <= figures.keys()
    assert found["config"]["aad"]["processor"]


# ----------------------------------------------------------------------------------------- real weights


@pytest.mark.slow
@pytest.mark.grid
def test_the_shipped_pair_sees():
    """Greedy answers are right more often, by 20 points, with the right picture than with another one."""
    from experiments.demo_vision.held_out import measure

    found = measure(vision.vision_reference_path(), vision.vision_adapter_path())
    for side in ("reference", "policy"):
        assert found[side]["difference"]["accuracy"] >= 0.2
        assert found[side]["difference"]["description_f1"] >= 0.2


@pytest.mark.slow
@pytest.mark.grid
def test_the_whole_task_runs_on_the_shipped_pair(tmp_path, monkeypatch):
    args = {"pair": "demo-vision", "device": "cpu", "batch_size": 16, "answers_dir": "none"}
    figures = run_task(monkeypatch, tmp_path, model_args=args)["results"]["aad_vision_demo"]
    assert figures["sample_len"] == 300
    for name in ("aad", "greedy", "best_of_2", "vcd"):
        assert figures[f"recall_{name},none"] > 0.5 and figures[f"truncated_{name},none"] < 0.1


def test_the_shipped_parts_are_small_and_whole():
    files = [file for file in vision.SHIPPED_VISION.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 12e6
    policy = load_file(vision.vision_adapter_path() / vision.ADAPTER)
    assert policy and all("text_model" in name for name in policy)
    reference = load_file(vision.SHIPPED_VISION / "reference" / vision.TOWER)
    assert {name.split(".")[1] for name in reference} == {"vision_model", "connector"}
    assert all(torch.isfinite(value).all() for value in [*policy.values(), *reference.values()])
