"""Reading pictures: what is upright RGB in the end, and what is refused in one line before it is unpacked."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aad_plugin.errors import ConfigError
from aad_plugin.sources import images
from aad_plugin.sources.images import MAX_PICTURES, MAX_PIXELS, check_number, read_picture, with_pictures
from tests.vision.families import picture


def test_every_mode_becomes_upright_rgb(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    assert read_picture(clear).image.getpixel((0, 0)) == (255, 255, 255)  # over white
    wide = Image.fromarray(np.full((2, 2), 65535, dtype=np.uint16))
    assert read_picture(wide).image.getpixel((0, 0)) == (255, 255, 255)
    assert read_picture(picture(1).convert("L")).image.mode == "RGB"
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(2, (40, 30)).save(tmp_path / "turned.png", exif=turned)
    assert read_picture(tmp_path / "turned.png").image.size == (30, 40)


def encoded(values: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
@pytest.mark.parametrize("share", [255 / 65535, 0.5, 1.0])
def test_a_scale_is_no_guess_from_the_largest_value(dtype: str, share: float) -> None:
    """Real numbers from 0 to 1 became black, and 255 of 65535 became white."""
    white = 1 if dtype == "float32" else 65535
    values = np.linspace(0, white * share, 16).reshape(4, 4).astype(dtype)
    seen = np.asarray(read_picture(encoded(values, "TIFF")).image)[..., 0]
    assert np.abs(seen - values / white * 255).max() < 0.501  # rounded to whole numbers


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([[0, 65536]], dtype="int32"), "from 0 to 65536, expected 0 (black) to 65535 (white)"),
        (np.array([[-1, 5]], dtype="int32"), "from -1 to 5, expected 0 (black) to 65535 (white)"),
        (np.array([[0, 255]], dtype="float32"), "from 0 to 255, expected 0 (black) to 1 (white)"),
        (np.array([[0, np.nan]], dtype="float32"), "from nan to nan, expected 0 (black) to 1 (white)"),
    ],
)
def test_a_scale_that_nobody_tells_is_refused(values: np.ndarray, wanted: str) -> None:
    with pytest.raises(ConfigError) as told:
        read_picture(encoded(values, "TIFF"), "prompt 1")
    assert str(told.value) == f"prompt 1: 'data' has grey values {wanted}: save it with 8 or 16 bits"


def test_frames_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(1).save(tmp_path / "two.gif", save_all=True, append_images=[picture(2)])
    read_picture(tmp_path / "two.gif")
    assert "has several frames; the first is shown" in caplog.text


def test_one_picture_has_one_digest() -> None:
    stream = io.BytesIO()
    picture(1).save(stream, "BMP")
    assert read_picture(stream.getvalue()).digest == read_picture(picture(1)).digest
    assert read_picture(picture(1)).digest != read_picture(picture(2)).digest


def bomb(side: int) -> bytes:
    """A PNG of side × side black pixels in a few hundred kilobytes, written without unpacking it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(side // 8 + 1) * side)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8000, 16000])
def test_bombs_are_refused_by_their_header(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self, *args):
        raise AssertionError("pixels were unpacked")

    monkeypatch.setattr(Image.Image, "load", never)
    with pytest.raises(ConfigError, match=rf"pixels, expected at most {MAX_PIXELS:,}"):
        read_picture(bomb(side), "prompt 1")


def test_what_is_no_picture_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("hello")
    picture(1).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:150])
    cases = {
        tmp_path / "text.png": "'text.png' is no picture that can be read",
        tmp_path / "half.png": "'half.png' is broken: ",
        tmp_path: "is a folder",
        tmp_path / "none.png": "is not there",
        "https://example.org/cat.png": "is an address, and nothing is fetched",
        "data:image/png;base64,!!!": "is not base64",
        "data:image/png,abc": "expected data:image/png;base64",
        42: "got int",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "is no picture",
    }
    for given, wanted in cases.items():
        with pytest.raises(ConfigError) as told:
            read_picture(given, "--image X")
        assert wanted in str(told.value) and "\n" not in str(told.value) and str(told.value).startswith("--image X")
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(ConfigError, match="expected at most"):
        read_picture(tmp_path / "whole.png")
    with pytest.raises(ConfigError, match=f"has {MAX_PICTURES + 1} pictures, expected at most {MAX_PICTURES}"):
        check_number(MAX_PICTURES + 1, "prompt 1")
    assert with_pictures("plain", []) == "plain"
