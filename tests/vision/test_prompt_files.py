"""Files of prompts with pictures: what reads them sees every picture, and what reads text alone refuses them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.sources.images import read_picture
from aad_plugin.sources.picture_prompts import picture_prompt_rows, read_picture_prompts
from aad_plugin.texts.prompts import read_prompts
from tests.vision.families import picture
from tests.vision.test_images import bomb


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    picture(seed).save(stream, "PNG")
    return stream.getvalue()


def digests(prompt) -> list[str]:
    return [part["image"].digest for turn in prompt for part in turn["content"] if part["type"] == "image"]


def texts(prompt) -> list[str]:
    return [part["text"] for turn in prompt for part in turn["content"] if part["type"] == "text"]


def write(folder: Path, *rows: dict) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_picture_is_named_in_any_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "one.png").write_bytes(png(1))
    coded = base64.b64encode(png(1)).decode()
    (tmp_path / "~one.png").write_bytes(png(1))
    empty = [{"type": "image"}, {"type": "text", "text": "what?"}]
    own = [{"type": "image", "base64": coded}, {"type": "text", "text": "what?"}]
    rows = [
        {"prompt": "what?", "images": ["shown/one.png"]},
        {"question": "what?", "image": f"data:image/png;base64,{coded}"},
        {"prompt": "what?", "images": [{"bytes": coded, "path": None}]},
        {"prompt": [{"role": "user", "content": empty}], "images": ["shown/one.png"]},
        {"prompt": "what?", "image_path": "shown/one.png"},
        {"prompt": "what?", "imageFile": "~one.png"},
        {"prompt": "what?", "img": "shown/one.png", "image_url": "https://example.org/one.png"},
        {"messages": [{"role": "user", "content": own}], "images": ["shown/one.png"]},
        {"messages": [{"role": "user", "content": own}], "image_url": "https://example.org/one.png"},
        {"messages": [{"role": "user", "content": own}, {"role": "assistant", "content": "a house"}]},
        {"chosen": [{"role": "user", "content": empty}, {"role": "assistant", "content": "x"}], "image_1": "shown/one.png"},
    ]  # fmt: skip
    monkeypatch.chdir("/")  # files are found beside the file that names them
    found = list(picture_prompt_rows(write(tmp_path, *rows)))
    wanted = [read_picture(png(1)).digest]
    assert [digests(prompt) for _, prompt in found] == [wanted] * len(rows)
    assert [texts(prompt) for _, prompt in found] == [["what?"]] * len(rows)
    together = read_picture_prompts(write(tmp_path, *rows))
    assert len(together) == 1 and together.repeated == len(rows) - 1 and together.shows_pictures


@pytest.mark.parametrize("split", ["", "#train"])
def test_a_data_sets_files_lie_in_its_folder(tmp_path: Path, split: str) -> None:
    """They were looked for in a folder called FOLDER#train."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "one.png").write_bytes(png(1))
    (folder / "train.jsonl").write_text(json.dumps({"prompt": "what?", "image": "one.png"}) + "\n")
    (prompt,) = read_picture_prompts(f"{folder}{split}").prompts
    assert digests(prompt) == [read_picture(picture(1)).digest]


def test_pictures_stand_where_parts_say(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [{"type": "image", "path": "3.png"}, {"type": "image"}, {"type": "text", "text": "c"}]},
    ]  # fmt: skip
    ((_, prompt),) = picture_prompt_rows(write(tmp_path, {"prompt": turns, "images": ["1.png", "2.png"]}))
    assert digests(prompt) == [read_picture(png(seed)).digest for seed in (1, 3, 2)]
    ((_, first),) = picture_prompt_rows(
        write(tmp_path, {"prompt": [{"role": "system", "content": "s"}, *turns[:1]], "images": ["2.png"]})
    )
    assert [part["type"] for part in first[1]["content"]] == ["text", "image"]
    ((_, plain),) = picture_prompt_rows(write(tmp_path, {"prompt": "two?", "images": ["1.png", "2.png"]}))
    assert [part["type"] for part in plain[0]["content"]] == ["image", "image", "text"]


def test_rows_of_text_stay_text(tmp_path: Path) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "b"}]}]
    turns = [{"role": "user", "content": "c"}]
    flags = {"img": False, "video_url": "https://example.org/a"}
    path = write(tmp_path, {"prompt": "a", "images": [], **flags}, {"prompt": parts}, {"prompt": turns, "image": None})
    assert [prompt for _, prompt in picture_prompt_rows(path)] == ["a", [{"role": "user", "content": "b"}], turns]
    assert not read_picture_prompts(path).shows_pictures
    same = write(tmp_path, {"prompt": "a"}, {"prompt": turns})
    assert read_picture_prompts(same).digest == read_prompts(same).digest


def test_another_picture_is_another_prompt(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(png(1))
    path = write(tmp_path, {"prompt": "what?", "images": ["one.png"]})
    before = read_picture_prompts(path).digest
    picture(1).save(tmp_path / "one.png", "TIFF")  # the same pixels
    assert read_picture_prompts(path).digest == before
    (tmp_path / "one.png").write_bytes(png(2))
    assert read_picture_prompts(path).digest != before


def test_a_data_sets_pictures_are_measured_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from datasets import Dataset, Features, Image, Sequence, Value

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    features = Features({"prompt": Value("string"), "images": Sequence(Image())})

    def save(name: str, data: bytes) -> str:
        rows = [{"prompt": "what?", "images": [{"bytes": data, "path": "x.png"}]}]
        (tmp_path / name).mkdir()
        Dataset.from_list(rows, features=features).to_parquet(tmp_path / name / "train-00000-of-00001.parquet")
        return str(tmp_path / name)

    ((_, prompt),) = picture_prompt_rows(save("good", png(1)))
    assert digests(prompt) == [read_picture(png(1)).digest]
    with pytest.raises(ConfigError, match=r"row 1, picture 1: 'data' is 8000 × 8000 pixels"):
        list(picture_prompt_rows(save("bomb", bomb(8000))))


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"prompt": "x", "images": ["none.png"]}, "line 1, picture 1: expected an image file"),
        ({"prompt": "x", "images": ["https://example.org/a.png"]}, "is an address, and nothing is fetched"),
        ({"prompt": "x", "image": "text.png"}, "'text.png' is no picture that can be read"),
        ({"prompt": "x", "images": [7]}, "picture 1: expected a file, bytes"),
        ({"prompt": "x", "video": "a.mp4"}, "column 'video' holds no picture"),
        ({"prompt": "x", "image": "text.png", "video": "a.mp4"}, "column 'video' holds no picture"),
        ({"prompt": "x", "picture_url": "https://example.org/a.png"}, "is an address, and nothing is fetched"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image", "path": "1.png"}]}], "images": ["2.png"]},
            "shows 1 pictures in its messages and others in its column: leave one of them out",
        ),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "has 0 pictures in its column and 1 parts"),
        ({"prompt": [{"role": "user", "content": [{"type": "audio"}]}]}, "line 1: a part is"),
        ({"prompt": [{"role": "user", "content": 3}]}, "'role' and 'content', text or parts"),
        ({"prompt": "x", "images": ["text.png"] * 65}, "is no picture"),
    ],
)
def test_mistakes_are_one_line_with_their_place(tmp_path: Path, row: dict, wanted: str) -> None:
    (tmp_path / "text.png").write_text("hello")
    for seed in (1, 2):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    with pytest.raises(ConfigError) as told:
        read_picture_prompts(write(tmp_path, row))
    assert wanted in str(told.value) and "\n" not in str(told.value)


SHOWING = [
    {"prompt": "x", "image_path": "one.png", "output": "o", "chosen": "a", "rejected": "b", "instruction": "x"},
    {"prompt": "x", "images": ["one.png"], "output": "o", "chosen": "a", "rejected": "b", "instruction": "x"},
    {"prompt": "x", "shot": "data:image/png;base64,A", "output": "o", "chosen": "a", "rejected": "b", "instruction": "x"},
    {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}], "output": "o",
     "chosen": "a", "rejected": "b", "instruction": "x", "audio": "y.wav"},
]  # fmt: skip
PAIR = ["--pair", "demo"]
READERS = {
    "study": ["study", *PAIR, "--oracle", "reward:demo", "--output", "out", "--prompts"],
    "bench": ["bench", *PAIR, "--prompts"],
    "rl": ["rl", *PAIR, "--recipe", "grpo-implicit", "--output", "out", "--oracle", "reward:demo",
           "--held-out-prompts", "t.txt", "--oracle-prompts", "t.txt", "--prompts"],
    "distill": ["distill", *PAIR, "--output", "out", "--picker", "reward:demo", "--oracle", "reward:demo",
                "--held-out-prompts", "t.txt", "--oracle-prompts", "t.txt", "--prompts"],
    "iterate": ["iterate", *PAIR, "--output", "out", "--picker", "reward:demo", "--oracle", "reward:demo",
                "--held-out-prompts", "t.txt", "--oracle-prompts", "t.txt", "--prompts"],
    "pairs": ["pairs", "check", "demo", "--preferences"],
    "alpaca": ["alpaca-eval", "generate", *PAIR, "--name", "n", "--output", "out", "--partial", "--instructions"],
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_what_reads_text_alone_says_so(aad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("y\n")
    for row in SHOWING:
        path = write(tmp_path, row)
        done = aad(*READERS[name], path)
        said = str(done.exception)
        assert "shows more than text" in said and "text alone is read here" in said, (name, done.output, done.exception)
        assert "\n" not in said and isinstance(done.exception, ConfigError)
