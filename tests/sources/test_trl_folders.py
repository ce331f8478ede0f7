"""Folders exactly as TRL leaves them: fresh adapter, adapter trained on top of an SFT adapter, full fine-tuning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aad_plugin.errors import ReferenceUnknown
from aad_plugin.pair.model import load_pair
from aad_plugin.pair.step import Step
from aad_plugin.sources.parts import resolve
from tests.toys import byte_tokenizer

pytestmark = pytest.mark.slow


def train(model, output: Path, **options) -> Path:
    """Two steps of DPO; the learning rate is large so that policy and reference differ."""
    import trl
    from datasets import Dataset

    rows = [{"prompt": f"Say {i}", "chosen": "yes of course", "rejected": "no way at all"} for i in range(4)]
    config = trl.DPOConfig(
        output_dir=str(output), max_steps=2, per_device_train_batch_size=2, learning_rate=1e-2, report_to=[],
        use_cpu=True, bf16=False, save_strategy="steps", save_steps=2, logging_steps=1, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=byte_tokenizer(), **options
    )
    trainer.train()
    trainer.save_model()
    return output


def lora():
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def test_a_fresh_adapter_shows_its_base(checkpoints, tmp_path):
    folder = train(str(checkpoints.base), tmp_path / "dpo", peft_config=lora())
    source = resolve(str(folder))
    assert (source.base, source.reference_adapter) == (str(checkpoints.base), None)
    ids = torch.tensor([[1, 2, 3]])
    pair = load_pair(str(folder))
    policy, reference = pair.sides.logits(("policy", "reference"), Step(ids, keep=1))
    assert not torch.allclose(policy, reference)


def test_an_adapter_on_an_sft_adapter_has_that_as_its_reference(checkpoints, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(checkpoints.base)
    started_from = PeftModel.from_pretrained(base, str(checkpoints.sft_adapter), is_trainable=True)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = started_from(input_ids=ids).logits[:, -1]
    folder = train(started_from, tmp_path / "dpo")
    source = resolve(str(folder))
    assert source.reference_adapter == str(folder / "ref")
    policy, reference = load_pair(str(folder)).sides.logits(("policy", "reference"), Step(ids, keep=1))
    assert torch.allclose(reference[:, -1], before, atol=1e-4), "the reference is base + SFT adapter, not the base"
    assert not torch.allclose(policy, reference, atol=1e-2)


@pytest.mark.grid
def test_full_fine_tuning_from_a_local_folder_proves_nothing(checkpoints, tmp_path):
    """TRL's model card leaves out a start that was a local folder."""
    folder = train(str(checkpoints.base), tmp_path / "dpo")
    with pytest.raises(ReferenceUnknown, match=f"policy={folder},reference=<the SFT checkpoint>"):
        resolve(str(folder))
    assert load_pair(policy=str(folder), reference=str(checkpoints.base)).vocab_size == 258
