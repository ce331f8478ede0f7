"""LoRA training of the policy (TRL's DPOTrainer) and of the reward model (TRL's RewardTrainer), in bf16 on a CPU."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from aad_plugin.demo.recipe.pairs import Pair
from aad_plugin.demo.recipe.sampling import MAX_NEW_TOKENS

__all__ = [
    "POLICY",
    "REWARD",
    "Hyperparameters",
    "chat_prompt",
    "conversation",
    "export_adapter",
    "train_policy",
    "train_reward",
]

BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
CONFIG_KEYS = ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "modules_to_save", "peft_version")
LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Hyperparameters:
    """What distinguishes one training run; the rest is TRL's default."""

    steps: int
    batch_size: int
    learning_rate: float
    rank: int = 8
    beta: float = 0.1
    seed: int = 0


POLICY = Hyperparameters(steps=40, batch_size=8, learning_rate=1e-4)
REWARD = Hyperparameters(steps=60, batch_size=12, learning_rate=3e-4)


def train_policy(base: Path, pairs: list[Pair], work: Path, out: Path, settings: Hyperparameters = POLICY) -> None:
    """Train the DPO adapter on `pairs` and write it to `out`; goes on from the last checkpoint in `work`.

    The prompt stands in the plain chat template, without the system messages that made the answers.
    """
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(beta=settings.beta, **_arguments(work, settings))
    tokenizer, model = _load(base, "AutoModelForCausalLM")
    trainer = DPOTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=_dataset(pairs, tokenizer, joined=False),
        data_collator=_collator(tokenizer),
        peft_config=_lora(settings, "CAUSAL_LM"),
    )
    _run(trainer, work, out)


def train_reward(base: Path, pairs: list[Pair], work: Path, out: Path, settings: Hyperparameters = REWARD) -> None:
    """Train the reward model's adapter and score head (Bradley-Terry loss) on `pairs` and write both to `out`."""
    from trl import RewardConfig, RewardTrainer

    config = RewardConfig(center_rewards_coefficient=0.01, **_arguments(work, settings))
    tokenizer, model = _load(base, "AutoModelForSequenceClassification", num_labels=1)
    trainer = RewardTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=_dataset(pairs, tokenizer, joined=True),
        peft_config=_lora(settings, "SEQ_CLS"),
    )
    _run(trainer, work, out)


def chat_prompt(tokenizer, prompt: str) -> str:
    """Return one user turn in the chat template, as lm-eval applies it."""
    chat = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


def conversation(prompt: str, answer: str) -> list[dict[str, str]]:
    """Return one user turn and its answer as chat messages."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _arguments(work: Path, settings: Hyperparameters) -> dict:
    return {
        "output_dir": str(work),
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "warmup_steps": max(1, settings.steps // 10),
        "lr_scheduler_type": "cosine",
        "bf16": True,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "max_length": 512,
        "logging_steps": 5,
        "save_steps": 20,
        "save_total_limit": 1,
        "report_to": "none",
        "seed": settings.seed,
    }


def _load(base: Path, auto_class: str, **options):
    import torch
    import transformers

    torch.manual_seed(0)  # the score head starts at random
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = getattr(transformers, auto_class).from_pretrained(base, dtype=torch.bfloat16, **options)
    return tokenizer, model


def _lora(settings: Hyperparameters, task_type: str):
    from peft import LoraConfig

    return LoraConfig(
        task_type=task_type,
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        lora_dropout=0.0,
        target_modules=LINEAR_LAYERS,
    )


def _dataset(pairs: list[Pair], tokenizer, *, joined: bool):
    """Rows for TRL. `joined`: whole conversations, which a judge reads; otherwise a rendered prompt and two answers."""
    from datasets import Dataset

    rows: list[dict] = []
    for p in pairs:
        if joined:
            rows.append({"chosen": conversation(p.prompt, p.chosen), "rejected": conversation(p.prompt, p.rejected)})
        else:
            rows.append({"prompt": chat_prompt(tokenizer, p.prompt), "chosen": p.chosen, "rejected": p.rejected})
    return Dataset.from_list(rows)


def _collator(tokenizer):
    """TRL closes every answer with an end token; this one cuts at the sampling limit, so that cut answers lose it."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    inner = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)

    def collate(examples):
        keys = ("chosen_ids", "rejected_ids")
        return inner([{**e, **{k: e[k][:MAX_NEW_TOKENS] for k in keys}} for e in examples])

    return collate


def _run(trainer, work: Path, out: Path) -> None:
    trainer.train(resume_from_checkpoint=bool(list(work.glob("checkpoint-*"))))
    saved = work / "final"
    trainer.save_model(str(saved))
    export_adapter(saved, out)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    (work / "log.json").write_text(json.dumps(log, indent=1), encoding="utf-8")


def export_adapter(saved: Path, out: Path) -> None:
    """Copy an adapter in bf16, with the base's public name in place of this machine's path, and nothing else."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    state = {
        name: t.to(torch.bfloat16).contiguous() for name, t in load_file(saved / "adapter_model.safetensors").items()
    }
    save_file(state, out / "adapter_model.safetensors", metadata={"format": "pt"})
    (out / "adapter_model.safetensors").chmod(0o644)
    config = json.loads((saved / "adapter_config.json").read_text(encoding="utf-8"))
    # What is unset is left out: an older peft then meets no option it does not know.
    config = {key: value for key, value in config.items() if value not in (None, False, {}, []) and key in CONFIG_KEYS}
    config.update(base_model_name_or_path=BASE_ID, inference_mode=True, target_modules=LINEAR_LAYERS)
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
