"""Small copies of the pictures that documents of a run showed, kept beside lm-eval's samples, which hold no pixels.

FOLDER/pictures_<task>_rank<n>.jsonl, a document per line. The report shows them beside the answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aad_plugin.errors import ConfigError
from aad_plugin.explain.records import ShownPicture
from aad_plugin.explain.trace_files import text_hash
from aad_plugin.files.whole import write_text
from aad_plugin.sources.images import Picture, data_url
from aad_plugin.texts.rows import json_lines

_SIDE = 320  # pixels: legible, and about 15 kB as JPEG


@dataclass(frozen=True)
class ShownDocument:
    """What one document showed.

    Args:
        number: lm-eval's of the document. prompt_hash: of the rendered prompt, as in lm-eval's samples.
    """

    number: int
    prompt_hash: str
    pictures: tuple[ShownPicture, ...]


def preview(picture: Picture, side: int = _SIDE, kind: str = "JPEG") -> ShownPicture:
    """Return a small copy of a picture, no side longer than ``side`` pixels; kind: as of `data_url`."""
    width, height = picture.size
    return ShownPicture(picture.name, picture.digest, width, height, data_url(picture.image, side, kind))


def write_shown(folder: Path, rank: int, shown: Mapping[str, Sequence[tuple[int, str, Sequence[Picture]]]]) -> None:
    """Write what documents showed; blocks on local disk.

    Args:
        rank: number of this process. shown: task -> (document's number, rendered prompt, pictures).
    Raises:
        ConfigError: the disk does not take it.
    """
    small: dict[str, ShownPicture] = {}
    for task, documents in shown.items():
        lines = []
        for number, prompt, pictures in documents:
            for picture in pictures:
                if picture.digest not in small:
                    small[picture.digest] = preview(picture)
            own = [asdict(small[picture.digest]) for picture in pictures]
            lines.append(json.dumps({"number": number, "prompt_hash": text_hash(prompt), "pictures": own}) + "\n")
        write_text(folder / f"pictures_{task}_rank{rank}.jsonl", "".join(lines))


def is_shown(path: Path) -> bool:
    """Whether a file is one of these."""
    return path.name.startswith("pictures_") and path.suffix == ".jsonl" and "_rank" in path.name


def task_of(path: Path) -> str:
    """The task of such a file."""
    return path.stem.removeprefix("pictures_").rpartition("_rank")[0]


def read_shown(path: Path) -> Iterator[ShownDocument]:
    """Yield the documents of a file.

    Raises:
        ConfigError: it cannot be read, or a line is none of these.
    """
    try:
        for _, row in json_lines(path):
            pictures = tuple(ShownPicture(**one) for one in row["pictures"])
            if not all(str(one.data).startswith("data:image/") for one in pictures):
                raise ValueError("a picture is no data: URL")
            yield ShownDocument(int(row["number"]), str(row["prompt_hash"]), pictures)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no pictures of a run ({type(error).__name__}: {error})") from error
