"""`aad synthesize` and `aad generate --prompts` over prompts with pictures: answers, files, resume, and a step of DPO."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aad_plugin import AlignedPair, answer
from aad_plugin.errors import ConfigError
from aad_plugin.harness import whole_batches
from aad_plugin.sources.images import read_picture
from aad_plugin.sources.picture_prompts import read_picture_prompts
from tests.vision.families import picture
from tests.vision.test_prompt_files import digests, write

BUDGET = 6


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    """A prompt with two pictures, one with one, one without, and one that differs from the second by its picture alone."""
    for seed in (1, 2, 3, 4):
        picture(seed, (24 + 8 * seed, 32)).save(tmp_path / f"{seed}.png")
    return write(
        tmp_path,
        {"prompt": "which?", "images": ["1.png", "2.png"]},
        {"prompt": "what?", "images": ["3.png"]},
        {"prompt": "no picture"},
        {"prompt": "what?", "images": ["4.png"]},
    )


@pytest.fixture
def command(aad, llava, prompts):
    def run(output: Path, *more):
        return aad(
            "synthesize", "--model-args", f"policy={llava[0]},reference={llava[1]},dtype=float32,device=cpu",
            "--prompts", prompts, "--output", output, "--max-new-tokens", BUDGET, "--batch-size", "4", "--keep-truncated",
            "--rejected", "greedy", *more,
        )  # fmt: skip

    return run


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "preferences.jsonl").read_text().splitlines()]


def test_pairs_are_the_answers_with_their_pictures(command, llava, prompts, tmp_path: Path, monkeypatch) -> None:
    done = command(tmp_path / "out")
    assert done.exit_code == 0, done.exception
    made = rows(tmp_path / "out")
    pair = AlignedPair.from_pretrained(policy=llava[0], reference=llava[1], dtype="float32")
    asked = read_picture_prompts(prompts)
    wanted = [answer(pair, asked.prompts, strategy=name, max_new_tokens=BUDGET) for name in ("aad", "greedy")]
    pairs = [(a.strip(), b.strip()) for a, b in zip(*wanted, strict=True)]
    text = [tuple(row[side][0]["content"][0]["text"] for side in ("chosen", "rejected")) for row in made]
    assert text == [pair for pair in pairs if pair[0] != pair[1]] and len(made) >= 2
    again = read_picture_prompts(str(tmp_path / "out" / "preferences.jsonl"))  # the lines are themselves such a file
    assert {prompt_marks(one) for one in again.prompts} <= {prompt_marks(one) for one in asked.prompts}

    monkeypatch.setattr(whole_batches, "ask", lambda *_, **__: pytest.fail("decoded again"))
    assert command(tmp_path / "out", "--min-tokens", "2").exit_code == 0
    picture(9).save(Path(prompts).parent / "4.png")
    assert "holds pairs made otherwise: digest is" in str(command(tmp_path / "out").exception)


def prompt_marks(prompt) -> tuple[str, ...]:
    return tuple(digests(prompt)) if not isinstance(prompt[-1]["content"], str) else ()


def test_an_answer_is_kept_by_its_picture(command, prompts, tmp_path: Path, monkeypatch) -> None:
    """A folder whose answers were kept is continued; a prompt that differs by its picture is asked."""
    assert command(tmp_path / "out").exit_code == 0
    (tmp_path / "out" / "synthesis.json").unlink()
    for path in (tmp_path / "out").glob("answers/*/*.jsonl"):
        path.rename(tmp_path / "kept.jsonl")
        kept = path
    picture(9).save(Path(prompts).parent / "4.png")
    kept.parent.mkdir(parents=True, exist_ok=True)
    lines = (tmp_path / "kept.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 8
    asked: list[list[str]] = []
    real = whole_batches.ask
    monkeypatch.setattr(
        whole_batches, "ask", lambda model, contexts, *a, **b: asked.append(contexts) or real(model, contexts, *a, **b)
    )
    assert command(tmp_path / "other").exit_code == 0
    now = [line for path in (tmp_path / "other").glob("answers/*/*.jsonl") for line in path.read_text().splitlines()]
    keys = [{json.loads(line)["key"] for line in some} for some in (lines, now)]
    assert len(keys[0] & keys[1]) == 6 and asked


@pytest.mark.parametrize("kind", ["llava", "text"])
def test_pairs_and_engines_that_read_text_alone(
    command, checkpoints_of_text, tmp_path: Path, monkeypatch, kind: str
) -> None:
    if kind == "text":
        named = f"policy={checkpoints_of_text[0]},reference={checkpoints_of_text[1]},device=cpu"
        assert "pictures need a pair that sees" in str(command(tmp_path / "out", "--model-args", named).exception)
        return
    said = str(command(tmp_path / "out", "--margin-judge", "reward:demo").exception)
    assert said.startswith("the prompts show pictures, which a reward model of text does not see")
    monkeypatch.setattr("aad_plugin.engine.options.check_vllm", lambda: None)
    said = command(tmp_path / "vllm", "--engine", "vllm").exception
    assert isinstance(said, ConfigError) and "use --engine hf" in str(said)


def test_a_prompt_without_room_counts_its_pictures_tokens(command, tmp_path: Path) -> None:
    refused = str(command(tmp_path / "out", "--max-new-tokens", "1000").exception)
    assert refused.startswith("prompt 1 has 55 tokens") and "'s context of 1024" in refused, refused
    done = command(tmp_path / "left", "--max-new-tokens", "980", "--skip-long", "--limit", "1")
    assert str(done.exception).startswith("none of the prompts fits")


def test_generate_reads_the_same_files(aad, llava, prompts, tmp_path: Path) -> None:
    done = aad(
        "generate", "--policy", llava[0], "--reference", llava[1], "--prompts", prompts, "--max-new-tokens", BUDGET,
        "--output", tmp_path / "answers.jsonl", "--model-args", "dtype=float32,device=cpu",
    )  # fmt: skip
    assert done.exit_code == 0, done.exception
    written = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    pair = AlignedPair.from_pretrained(policy=llava[0], reference=llava[1], dtype="float32")
    wanted = answer(pair, read_picture_prompts(prompts).prompts, max_new_tokens=BUDGET)
    assert [row["outputs"]["aad"] for row in written] == wanted
    assert (
        written[1]["images"] == [f"3.png, {read_picture(picture(3, (48, 32))).digest}"] and "images" not in written[2]
    )
    judged = aad("judge", "--judge", "reward:demo", "--output", tmp_path / "j", "--candidate", tmp_path / "answers.jsonl",
                 "--baseline", tmp_path / "answers.jsonl")  # fmt: skip
    assert "cannot read the picture" in str(judged.exception), "names and digests are for people; none is judged unseen"


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize("source", ["dataset", "preferences.jsonl"])
def test_trl_trains_on_what_was_written(command, llava, tmp_path: Path, monkeypatch, source: str) -> None:
    import datasets
    from datasets import load_dataset
    from transformers import AutoModelForImageTextToText
    from trl import DPOConfig, DPOTrainer

    from tests.vision.families import FAMILIES

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert command(tmp_path / "out").exit_code == 0
    if source == "dataset":
        data = load_dataset(str(tmp_path / "out" / "dataset"), split="train")
    else:
        data = load_dataset("json", data_files=str(tmp_path / "out" / source), split="train")
        monkeypatch.chdir(tmp_path / "out")
        data = data.cast_column("images", datasets.List(datasets.Image()))
    assert len(data) == len(rows(tmp_path / "out"))
    shown = [[read_picture(one).digest for one in row["images"]] for row in data]
    assert shown == [[Path(name).stem for name in row["images"]] for row in rows(tmp_path / "out")]
    trainer = DPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(llava[0]),
        args=DPOConfig(
            output_dir=str(tmp_path / "trained"), max_steps=1, per_device_train_batch_size=len(data), report_to=[],
            learning_rate=1e-2, use_cpu=True, bf16=False, max_length=None, gradient_checkpointing=False,
            remove_unused_columns=False,
        ),
        train_dataset=data,
        processing_class=FAMILIES["llava"].processor(),
    )  # fmt: skip
    before = trainer.model.lm_head.weight.detach().clone()
    found = trainer.train()
    assert abs(found.training_loss - 0.6931) < 1e-3  # policy is reference at the first step
    assert not (trainer.model.lm_head.weight == before).all()


def test_a_system_turn_stands_in_the_pairs_where_the_template_reads_it(aad, tmp_path: Path) -> None:
    """A trainer renders the pairs by the same template, which would leave the words out again."""
    from tests.vision.families import FAMILIES

    family = FAMILIES["llava"]
    for seed, name in enumerate(("policy", "reference")):
        processor = family.processor()
        template = processor.chat_template.replace("for m in messages", "for m in messages if m['role'] == 'user'")
        processor.chat_template = processor.tokenizer.chat_template = template
        family.model(seed).save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    picture(1).save(tmp_path / "1.png")
    turns = [{"role": "system", "content": "In French."}, {"role": "user", "content": "what?"}]
    path = write(tmp_path, {"messages": turns, "images": ["1.png"]}, {"messages": turns})
    named = f"policy={tmp_path / 'policy'},reference={tmp_path / 'reference'},dtype=float32,device=cpu"
    done = aad("synthesize", "--model-args", named, "--prompts", path, "--output", tmp_path / "out", "--rejected",
               "greedy", "--max-new-tokens", BUDGET, "--keep-truncated")  # fmt: skip
    assert done.exit_code == 0, done.exception
    opening = {"type": "text", "text": "In French.\n\n"}
    for row in rows(tmp_path / "out"):
        assert [turn["role"] for turn in row["prompt"]] == ["user"] and row["prompt"][0]["content"][0] == opening
