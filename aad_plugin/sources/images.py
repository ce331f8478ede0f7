"""Pictures of prompts: read from files or from data, checked before anything is decoded, always RGB.

    picture = read_picture("cat.jpg")

Nothing is ever fetched: an address is refused. What is too large is refused by its header, before its pixels are unpacked,
since a file of a few kilobytes can hold gigapixels. Knows no models.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.sources.processors import need_pillow

logger = logging.getLogger(__name__)

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 50_000_000  # 150 MB once unpacked
MAX_PICTURES = 64  # of one prompt
# Readers that unpack pixels themselves; others of Pillow's start programs (EPS) or read further files.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_WIDE = ("I", "I;16", "I;16B", "I;16L", "F")


# Where a picture stands in a part, by the words of transformers, TRL and OpenAI.
_PLACES = ("image", "path", "data", "base64", "url", "image_url")


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as models are shown it: RGB, upright.

    Attributes:
        name: its file's, or "data". digest: 16 hex digits of size and pixels. size: (width, height) in pixels.
        kept: the bytes of its file, or an image in memory.
    """

    name: str
    digest: str
    size: tuple[int, int]
    kept: Any = field(repr=False)

    @property
    def image(self) -> Any:
        """The image; what was read from bytes is unpacked anew each time, so that many pictures fit into memory."""
        return _upright(_opened(self.kept)) if isinstance(self.kept, bytes) else self.kept

    def encoded(self) -> tuple[bytes, str]:
        """Return the picture as bytes of a file with its ending: its own where they hold nothing else, or a PNG."""
        if isinstance(self.kept, bytes):
            own = _opened(self.kept)
            if (
                own.mode == "RGB"
                and own.format in ("PNG", "JPEG")
                and not own.getexif()
                and not own.info.get("transparency")
            ):
                return self.kept, own.format.lower()
        stream = io.BytesIO()
        self.image.save(stream, "PNG")
        return stream.getvalue(), "png"


def read_picture(given: Any, place: str = "the picture") -> Picture:
    """Return a picture.

    Args:
        given: a path, bytes, a ``data:`` URL, or an image of Pillow. place: for messages, in a user's words.
    Raises:
        ConfigError: no picture, a broken one, too large a one, or an address.
    """
    need_pillow()
    from PIL import Image

    if isinstance(given, Picture):
        return given
    if isinstance(given, Image.Image):
        return _picture(given, "data", place)
    if isinstance(given, bytes | bytearray):
        return _unpacked(bytes(given), "data", place)
    if not isinstance(given, str | Path):
        raise ConfigError(f"{place}: expected a file, bytes, a data: URL or a Pillow image, got {type(given).__name__}")
    text = str(given)
    if text[:5].lower() == "data:":
        return _unpacked(_from_url(text, place), "data", place)
    if "://" in text:
        raise ConfigError(
            f"{place}: {shown_name(text)!r} is an address, and nothing is fetched: save it and give its file"
        )
    path = home_path(text)
    return _unpacked(_bytes_of(path, place), path.name, place)


def home_path(text: str) -> Path:
    """Return a file's path; a ``~`` that is nobody's home is part of its name."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def with_pictures(prompt: str, files: Sequence[str | Path]) -> Any:
    """Return a prompt as a user's turn that shows pictures before its text; the prompt itself without any.

    Raises:
        ConfigError: as :func:`read_picture`.
    """
    if not files:
        return prompt
    check_number(len(files), "the prompt")
    shown = [{"type": "image", "image": read_picture(file, f"--image {shown_name(str(file))}")} for file in files]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}]


def shown_name(given: str) -> str:
    """Return a file's name as it is; of an address scheme and host alone, which hold no secret, and of data nothing."""
    if given[:5].lower() == "data:":
        return "data:…"
    if "://" not in given:
        return given
    scheme, _, rest = given.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest, maxsplit=1)[0].rpartition('@')[2]}/…"


def picture_of_part(part: Mapping[str, Any], place: str) -> Any:
    """Return what a part of a message gives as its picture, as `read_picture` takes it.

    Raises:
        ConfigError: it names none.
    """
    found = part_payload(part)
    if found is None:
        raise ConfigError(f'{place}: an image part names its picture, such as {{"type": "image", "image": "cat.jpg"}}')
    return found


def part_payload(part: Mapping[str, Any]) -> Any:
    """Return as above, or None for a part that only says where a picture stands."""
    name = next((name for name in _PLACES if part.get(name) is not None), None)
    if name is None:
        return None
    return _as_url(part[name]) if name == "base64" else plain_payload(part[name])


def parts_of(content: Iterable[Any], place: str) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """Yield of each part of a turn its text, or None for a picture, and the part itself.

    Raises:
        ConfigError: a part that is neither text nor a picture.
    """
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield part["text"], part
        elif kind in ("image", "image_url"):
            yield None, part
        else:
            wanted = '{"type": "text", "text": …} or {"type": "image", "image": …}'
            raise ConfigError(f"{place}: a part is {wanted}, got one of type {kind!r:.40}")


def plain_payload(value: Any) -> Any:
    """Return a picture out of OpenAI's {"url": …} or datasets' {"bytes": …, "path": …}, whose bytes are base64 in JSON."""
    if not isinstance(value, Mapping):
        return value
    name = next((name for name in ("url", "bytes", "path") if value.get(name) is not None), None)
    if name is None:
        return None
    return _as_url(value[name]) if name == "bytes" and isinstance(value[name], str) else value[name]


def _as_url(base64_text: Any) -> Any:
    return f"data:image/png;base64,{base64_text}" if isinstance(base64_text, str) else base64_text


def data_url(image: Any, side: int, kind: str = "PNG") -> str:
    """Return a copy of an image, no side longer than ``side`` pixels, as a ``data:`` URL.

    Args:
        kind: PNG, or JPEG, which is smaller and not exact.
    """
    small = image.copy()
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def check_number(number: int, place: str) -> None:
    """Raise ConfigError for more pictures than a prompt may have."""
    if number > MAX_PICTURES:
        raise ConfigError(f"{place} has {number} pictures, expected at most {MAX_PICTURES}: leave some out")


def _bytes_of(path: Path, place: str) -> bytes:
    try:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file" if path.exists() else "not there"
            raise ConfigError(f"{place}: expected an image file, {str(path)!r} is {kind}")
        if path.stat().st_size > MAX_BYTES:
            raise _too_many_bytes(path.stat().st_size, place)
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{place}: cannot read {str(path)!r}: {error.strerror or error}") from error


def _from_url(text: str, place: str) -> bytes:
    head, comma, data = text.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ConfigError(f"{place}: expected data:image/png;base64,…, got {head[:40]!r}")
    if len(data) > MAX_BYTES * 4 // 3 + 4:
        raise _too_many_bytes(len(data) * 3 // 4, place)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"{place}: its data: URL is not base64 ({error})") from error


def _too_many_bytes(size: int, place: str) -> ConfigError:
    return ConfigError(f"{place} has {size / 2**20:.0f} MiB, expected at most {MAX_BYTES // 2**20}: scale it down")


def _unpacked(data: bytes, name: str, place: str) -> Picture:
    from PIL import Image

    if len(data) > MAX_BYTES:
        raise _too_many_bytes(len(data), place)
    try:
        image = _opened(data)
    except Image.DecompressionBombError as error:
        raise ConfigError(
            f"{place}: {name!r} has too many pixels, expected at most {MAX_PIXELS:,}: scale it down"
        ) from error
    except Exception as error:  # readers raise whatever a broken header makes of them
        raise ConfigError(
            f"{place}: {name!r} is no picture that can be read ({', '.join(_FORMATS).lower()})"
        ) from error
    return _picture(image, name, place, data)


def _opened(data: bytes) -> Any:
    """Return Pillow's image of bytes, its header read and its pixels not."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own warnings of size; ours is smaller
        return Image.open(io.BytesIO(data), formats=_FORMATS)


def _picture(image: Any, name: str, place: str, data: bytes | None = None) -> Picture:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ConfigError(
            f"{place}: {name!r} is {width} × {height} pixels, expected at most {MAX_PIXELS:,} in all: scale it down"
        )
    if min(width, height) < 1:
        raise ConfigError(f"{place}: {name!r} is {width} × {height} pixels, expected at least one")
    try:
        if getattr(image, "n_frames", 1) > 1:
            logger.warning("%s: %r has several frames; the first is shown", place, name)
        upright = _upright(image)
    except ConfigError as error:
        raise ConfigError(f"{place}: {name!r} {error}") from error
    except Exception as error:  # as above, of broken pixels
        raise ConfigError(f"{place}: {name!r} is broken: {' '.join(str(error).split())[:100]}") from error
    digest = hashlib.sha256(f"{upright.size}".encode() + upright.tobytes()).hexdigest()[:16]
    return Picture(name, digest, upright.size, upright if data is None else data)


def _upright(image: Any) -> Any:
    """Return a picture as RGB: turned as its EXIF says, over white where it is transparent."""
    from PIL import Image, ImageOps

    if getattr(image, "n_frames", 1) > 1:
        image.seek(0)
    image.load()
    turned = ImageOps.exif_transpose(image)
    if turned.mode in _WIDE:  # 16 bits and more, which Pillow would cut off at 255
        turned = _narrowed(turned)
    if turned.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in turned.info:
        clear = turned.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return turned.convert("RGB")


def _narrowed(image: Any) -> Any:
    """Return a grey picture of more than 8 bits as one of 8: white is 1 for real numbers and 65535 for whole ones.

    A scale by the largest value there is would show a dark picture bright.
    """
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype("float64")
    low, high, white = values.min(), values.max(), 1.0 if image.mode == "F" else 65535.0
    if not (low >= 0 and high <= white):  # nor NaN
        raise ConfigError(
            f"has grey values from {low:g} to {high:g}, expected 0 (black) to {white:g} (white): save it with 8 or 16 bits"
        )
    return Image.fromarray((values * (255 / white)).round().astype("uint8"))
