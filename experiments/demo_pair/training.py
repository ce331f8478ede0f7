"""Training of the demo pair's adapters: pairs as TRL reads them, TRL's command line, the shipped form of the result."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aad_plugin.files.marks import file_sha256
from aad_plugin.files.run_folder import keep_asked
from aad_plugin.training.recipes import recipe_path
from aad_plugin.training.trl_command import run_trl
from experiments.demo_pair.pairs import Pair

# split -> command of TRL; its recipe is dpo_demo or reward_demo, for the first pair dpo_demo@1 or reward_demo@1
COMMANDS = {"policy": "dpo", "reward": "reward"}
BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
CUT = "\ue000"
"""Ends a text that was cut at the token limit; the training template leaves out the end token TRL would teach there."""
LABEL_PAIRS = {"wrong_category": 110, "category_form": 80, "wrong_flags": 70, "flags_form": 60}
"""Pairs about labels that the policy is trained on, by kind: with all of them dialogue is a quarter of the set."""
CONFIG_KEYS = ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "modules_to_save", "peft_version")


def mostly_dialogue(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs in their order; of those about labels to train on, `LABEL_PAIRS` are drawn with a fixed seed."""
    rng, dropped = random.Random(0), set()
    for kind, wanted in LABEL_PAIRS.items():
        mine = [i for i, pair in enumerate(pairs) if pair.kind == kind and not pair.held_out]
        rng.shuffle(mine)
        dropped |= set(mine[wanted:])
    return [pair for i, pair in enumerate(pairs) if i not in dropped]


def write_sets(pairs: Sequence[Pair], folder: Path, *, share: float = 1.0, mark_cut: bool = False) -> None:
    """Write pairs in TRL's conversational preference format.

    Args:
        mark_cut: close training texts that were cut with `CUT`, for `open_base`.
        folder: gets ``train.jsonl``, what ``--dataset_name FOLDER`` reads, and ``held_out.jsonl`` beside the folder, what
            ``aad pairs check --preferences`` reads.
        share: of the training pairs, in (0, 1]; drawn with a fixed seed.
    """
    training = [pair for pair in pairs if not pair.held_out]
    if share < 1:
        training = random.Random(0).sample(training, round(share * len(training)))
    folder.mkdir(parents=True, exist_ok=True)
    held_out = [pair for pair in pairs if pair.held_out]
    for path, chosen, cut in (
        (folder / "train.jsonl", training, CUT if mark_cut else ""),
        (folder.parent / f"{folder.name}_held_out.jsonl", held_out, ""),
    ):
        rows = (json.dumps(_row(pair, cut), ensure_ascii=False) + "\n" for pair in chosen)
        path.write_text("".join(rows), encoding="utf-8")


def open_base(base: Path, folder: Path) -> Path:
    """Return a copy of the reference (links) whose chat template ends no message that closes with `CUT`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in base.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    template = (base / "chat_template.jinja").read_text(encoding="utf-8")
    ending = "message['content'] + '<|im_end|>' + '\n'"
    if template.count(ending) != 1:
        raise AssertionError(f"the reference's chat template does not close messages by {ending!r}: {template}")
    opened = f"(message['content'][:-1] if message['content'][-1:] == '{CUT}' else {ending})"
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").write_text(template.replace(ending, opened), encoding="utf-8")
    return folder


def train(split: str, base: Path, work: Path, arguments: Sequence[str] = (), *, preset: str = "demo") -> Path:
    """Train the adapter of ``policy`` or ``reward`` on what `write_sets` wrote; goes on from TRL's last checkpoint.

    Args:
        base: folder of the reference. work: holds the sets, logs and TRL's output. arguments: more options of TRL's.
        preset: whose settings.
    Returns:
        TRL's output folder.
    """
    command = COMMANDS[split]
    output = work / split
    if split == "policy":
        base = open_base(base, work / "base")
    given = ["--config", str(recipe_path(f"{command}_{preset}")), "--model_name_or_path", str(base)]
    sets = work / "sets" / split
    given += ["--dataset_name", str(sets.resolve()), *arguments]
    asked = {"pair": preset, "trl": list(arguments), "sets": file_sha256(sets / "train.jsonl")[:16]}
    keep_asked(work / "asked" / split, asked, "another training", "--work")  # whose checkpoints would be taken up
    run_trl(command, given, output=output, log=work / f"{split}.log", mark=work)
    return output


def export_adapter(saved: Path, out: Path, *, base: str = BASE_ID) -> None:
    """Copy an adapter in bf16, with the name of its base (the public one, in place of this machine's path), and no more."""
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
    kept = {key: value for key, value in config.items() if value not in (None, False, {}, []) and key in CONFIG_KEYS}
    kept |= {
        "base_model_name_or_path": base,
        "inference_mode": True,
        "target_modules": sorted(config["target_modules"]),
    }
    (out / "adapter_config.json").write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _row(pair: Pair, cut: str) -> dict[str, Any]:
    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    return {
        "prompt": turn("user", pair.prompt),
        "chosen": turn("assistant", pair.chosen + cut * (not pair.chosen_ended)),
        "rejected": turn("assistant", pair.rejected + cut * (not pair.rejected_ended)),
    }
