"""`aad generate --image`, `--draw` and `aad explain --image`, as a user types them: good input, and one line for bad."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from aad_plugin import AlignedPair, answer
from aad_plugin.cli.main import run
from aad_plugin.sources.images import read_picture
from tests.vision.conftest import save
from tests.vision.families import FAMILIES, picture
from tests.vision.test_images import bomb

FEW = ["--max-new-tokens", "4"]
ONE_PICTURE = (
    "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'image' and loop.first %}<image>"
    "{% elif p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """A folder with pictures, good and bad."""
    picture(1).save(tmp_path / "one.png")
    picture(2).save(tmp_path / "two.png")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "half.png").write_bytes((tmp_path / "one.png").read_bytes()[:150])
    (tmp_path / "bomb.png").write_bytes(bomb(16000))
    return tmp_path


def words(command: str, pair: tuple[str, str], *more) -> list[str]:
    few = [] if {"--draw", "--answer"} & set(map(str, more)) else FEW
    return [command, "--policy", pair[0], "--reference", pair[1], "--model-args", "dtype=float32,device=cpu", *few,
            *map(str, more)]  # fmt: skip


def complaint(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> str:
    """What ``aad …`` says in the end: one line, status 1, nothing on the standard output."""
    monkeypatch.setattr(sys, "argv", ["aad", *arguments])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        run()
    said = capfd.readouterr()
    assert ended.value.code == 1 and said.out == "" and "Traceback" not in said.err
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and said.err.rstrip().endswith(lines[0])
    return lines[0]


def show(text: str, *pictures) -> list[dict]:
    parts = [{"type": "image", "image": one} for one in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_generate_shows_a_picture_to_both_sides(aad, llava, shown: Path) -> None:
    done = aad(*words("generate", llava, "what?", "--image", shown / "one.png", "--image", shown / "two.png",
                      "--strategies", "aad,greedy", "--output", shown / "out.jsonl"))  # fmt: skip
    assert done.exit_code == 0, done.exception
    pair = AlignedPair.from_pretrained(policy=llava[0], reference=llava[1], dtype="float32")
    asked = [show("what?", picture(1), picture(2))]
    (row,) = [json.loads(line) for line in (shown / "out.jsonl").read_text().splitlines()]
    assert row["outputs"] == {
        name: answer(pair, asked, strategy=name, max_new_tokens=4)[0] for name in ("aad", "greedy")
    }
    assert row["images"] == [f"{n}.png, {read_picture(picture(i)).digest}" for i, n in ((1, "one"), (2, "two"))]
    url = "data:image/png;base64," + base64.b64encode((shown / "one.png").read_bytes()).decode()
    assert aad(*words("generate", llava, "what?", "--image", url)).exit_code == 0


def test_explain_shows_the_picture_and_its_hash(aad, llava, shown: Path) -> None:
    done = aad(*words("explain", llava, "what?", "--image", shown / "one.png", "--output", shown / "why.html",
                      "--output", shown / "why.json"))  # fmt: skip
    assert done.exit_code == 0, done.exception
    digest = read_picture(picture(1)).digest
    assert json.loads((shown / "why.json").read_text())["pictures"][0]["digest"] == digest
    page = (shown / "why.html").read_text()
    assert f"one.png, {digest}" in page
    found = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert found and read_picture(base64.b64decode(found[1])).digest == digest
    scored = shown / "answer.txt"
    scored.write_text("a house")
    assert aad(*[*words("explain", llava, "what?", "--image", shown / "one.png", "--answer", scored)]).exit_code == 0


@pytest.mark.parametrize("command", ["generate", "explain"])
def test_bad_pictures_are_one_line_before_anything_is_loaded(
    llava, shown: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, command: str
) -> None:
    monkeypatch.setattr("aad_plugin.cli.pair_options.NamedPair.load", lambda *_, **__: pytest.fail("loaded"))
    cases = {
        "text.png": "'text.png' is no picture that can be read (png, jpeg",
        "half.png": "'half.png' is broken",
        "bomb.png": "expected at most 50,000,000",
        "none.png": "is not there",
        ".": "is a folder",
    }
    for name, wanted in cases.items():
        said = complaint(words(command, llava, "what?", "--image", shown / name), monkeypatch, capfd)
        assert wanted in said and f"--image {shown / name}"[:20] in said, said
    for secret in ("https://me:s3cret@example.org/a.png?token=s3cret", "data:image/png;base64,s3cret!"):
        said = complaint(words(command, llava, "what?", "--image", secret), monkeypatch, capfd)
        assert "s3cret" not in said and ("example.org/…' is an address" in said or "is not base64" in said), said
    many = [word for _ in range(65) for word in ("--image", shown / "one.png")]
    said = complaint(words(command, llava, "what?", *many), monkeypatch, capfd)
    assert "the prompt has 65 pictures, expected at most 64" in said


def test_pairs_that_do_not_fit_the_picture(
    llava, checkpoints_of_text, shown: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    one = ["what?", "--image", shown / "one.png"]
    for command in ("generate", "explain"):
        said = complaint(words(command, checkpoints_of_text, *one), monkeypatch, capfd)
        assert "prompt 1 shows a picture, but this pair reads text alone: load one that sees" in said
    other = save(FAMILIES["llava"], 1, shown / "other")
    processor = FAMILIES["llava"].processor()
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(other)
    said = complaint(words("generate", (llava[0], other), *one), monkeypatch, capfd)
    assert "their processors differ in image image_mean" in said
    for name, folder in zip(("p", "r"), llava, strict=True):
        shutil.copytree(folder, shown / name)
        (shown / name / "chat_template.jinja").write_text(ONE_PICTURE)
    both = (str(shown / "p"), str(shown / "r"))
    said = complaint(words("generate", both, *one, "--image", shown / "two.png"), monkeypatch, capfd)
    assert "prompt 1 has 2 pictures, and its text 1 places for one (<image>)" in said
    said = complaint(words("generate", llava, "--image", shown / "one.png"), monkeypatch, capfd)
    assert "--image shows a picture before a PROMPT: give one as an argument" in said


def test_draw_writes_the_picture(aad, tmp_path: Path) -> None:
    pair = tuple(save(FAMILIES["emu3"], seed, tmp_path / name) for seed, name in enumerate(("policy", "reference")))
    done = aad(*words("generate", pair, "a house", "--draw", tmp_path / "house.png", "--draw-area", 32 * 24))
    assert done.exit_code == 0, done.exception
    with Image.open(tmp_path / "house.png") as drawn:
        assert drawn.mode == "RGB" and drawn.size == (24, 24)
    refused = aad(*words("generate", pair, "a house", "--draw", tmp_path / "house.png"))
    assert "exceeds the context of 1024: ask for less than 518400 pixels" in str(refused.exception)


def test_draw_says_what_it_cannot(
    llava, shown: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    target = ["--draw", shown / "house.png"]
    cases = [
        (["a house", *target], "this pair writes text alone, LlavaForConditionalGeneration has no decoder"),
        (["a house", "--draw", shown / "house.txt"], "--draw writes FILE.png, FILE.jpg or FILE.webp"),
        (["a", "b", *target], "--draw writes one picture: give one PROMPT of text"),
        (["a", "--image", shown / "one.png", *target], "--draw writes one picture: give one PROMPT of text"),
        (["a", "--strategies", "aad,greedy", *target], "--draw writes one picture"),
        (["a", "--draw", "/proc/house.png"], "cannot write /proc/house.png"),
        (["a", "--draw-area", "99"], "--draw-area is of the picture that --draw writes"),
        (
            ["a", *target, "--output", shown / "a.jsonl", "--no-chat"],
            "makes no use of --output, --chat: leave them out",
        ),
        (
            ["a", *target, "--max-new-tokens", "9", "--batch-size", "8"],
            "makes no use of --max-new-tokens, --batch-size",
        ),
        (["a", "--limit", "3"], "--limit is of --prompts"),
    ]
    for more, wanted in cases:
        assert wanted in complaint(words("generate", llava, *more), monkeypatch, capfd)
    assert not (shown / "house.png").exists()
