"""A distilled student in programs that never heard of this package: plain lm-eval, plain vLLM, plain transformers."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.pairs import lora_pair
from tests.engine.serving import ENGINE, listening
from tests.engine.without_plugin import plain_python
from tests.harness.conftest import QUESTIONS
from tests.toys import EOS, PAD, byte_tokenizer
from tests.training.conftest import reward
from tests.training.test_distill import TOY

__all__ = ["plain_python", "reward"]

pytestmark = [pytest.mark.engine, pytest.mark.grid]

STEPS, NEW = 2, 12


@dataclass(frozen=True)
class Student:
    """Where it lies, and the base it stands on if it is an adapter."""

    folder: Path
    base: Path | None

    def greedy(self, ids: list[int]) -> list[int]:
        """The tokens of plain transformers (and PEFT) behind a prompt, up to the end token."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.base or self.folder, dtype=torch.float32)
        model = model if self.base is None else PeftModel.from_pretrained(model, str(self.folder))
        prompt = torch.tensor([ids])
        found = model.eval().generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=PAD,
        )
        return until_end(found[0, len(ids) :].tolist())


def until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS)] if EOS in ids else ids


@pytest.fixture(scope="module", params=["policy", "weights"])
def student(request, reward, tmp_path_factory) -> Student:
    """Two steps of ``aad distill``: the policy's adapter goes on, or its merged weights do."""
    root = tmp_path_factory.mktemp(request.param)
    pair = lora_pair(root / "pair", "llama")
    for name in ("prompts", "held-out-prompts", "oracle-prompts"):
        rows = [json.dumps({"prompt": f"Say {name} {number}"}) + "\n" for number in range(4)]
        (root / f"{name}.jsonl").write_text("".join(rows))
    (root / "toy.yaml").write_text(json.dumps({**TOY, "max_steps": STEPS, "save_steps": STEPS}))
    sets = [f"--{name}={root / name}.jsonl" for name in ("prompts", "held-out-prompts", "oracle-prompts")]
    model_args = f"reference={pair.model},adapter={pair.rest['adapter']},dtype=float32,device=cpu"
    words = ["--model-args", model_args, *sets, "--oracle", f"reward:{reward}", "--picker", "implicit"]
    words += ["--recipe", str(root / "toy.yaml"), "--student", request.param, "--output", str(root / "out")]
    words += ["--max-new-tokens", "6", "--batch-size", "4"]
    done = subprocess.run([sys.executable, "-m", "aad_plugin.cli", "distill", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Student(root / "out" / "student", pair.model if request.param == "policy" else None)


def test_lm_evals_hf_takes_it(student, plain_python, task_folder, tmp_path):
    folder = (
        f"pretrained={student.folder}" if student.base is None else f"pretrained={student.base},peft={student.folder}"
    )
    command = [*plain_python, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"{folder},dtype=float32"]
    command += ["--tasks", "toy_generate", "--include_path", str(task_folder), "--device", "cpu", "--batch_size", "1"]
    done = subprocess.run(
        [*command, "--log_samples", "--output_path", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (samples,) = tmp_path.rglob("samples_toy_generate_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    found = {row["doc"]["q"]: row["resps"][0][0] for row in rows}
    tokenizer = byte_tokenizer()
    assert found == {text: tokenizer.decode(student.greedy(tokenizer(text)["input_ids"])) for text in QUESTIONS}


def test_vllm_serve_takes_it(student, plain_python):
    if student.base is None:
        served, model = str(student.folder), []
    else:
        served, model = str(student.base), ["--enable-lora", "--lora-modules", f"student={student.folder}"]
    options = [*ENGINE, "--max-model-len", "512", *model, *([] if model else ["--served-model-name", "student"])]
    with listening([*plain_python, "-m", "vllm.entrypoints.cli.main", "serve", served, *options]) as address:
        tokenizer = byte_tokenizer()
        for text in QUESTIONS[:3]:
            ids = tokenizer(text)["input_ids"]
            (choice,) = ask(address, "completions", prompt=ids)["choices"]
            assert until_end(choice["token_ids"]) == student.greedy(ids)
        messages = [{"role": "user", "content": QUESTIONS[3]}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        (choice,) = ask(address, "chat/completions", messages=messages)["choices"]
        assert until_end(choice["token_ids"]) == student.greedy(tokenizer(prompt)["input_ids"])


def ask(address: str, route: str, **body: Any) -> dict[str, Any]:
    """A server's reply to one greedy request, with its token ids."""
    asked = {"model": "student", "temperature": 0, "max_tokens": NEW, "return_token_ids": True, **body}
    request = urllib.request.Request(
        f"{address}/{route}", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)
