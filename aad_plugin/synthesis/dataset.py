"""Synthetic pairs on disk: TRL's conversational preference format as JSON lines, and as a dataset folder with its card.

OUTPUT/preferences.jsonl          one pair per line
OUTPUT/images/                    of prompts that show pictures; the lines name its files
OUTPUT/dataset/README.md          the card; data/train-00000-of-00001.parquet beside it
                                  what ``load_dataset`` and ``trl dpo --dataset_name`` read, ready to be published
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import replacing, write_text
from aad_plugin.sources.arguments import take_template_args
from aad_plugin.synthesis.filters import REASONS, Candidate
from aad_plugin.synthesis.pictures import FOLDER, in_parts, picture_table, pictures_in, write_pictures

JSONL = "preferences.jsonl"
DATASET = "dataset"
_PARQUET = Path("data") / "train-00000-of-00001.parquet"


def row_of(candidate: Candidate, pictures: list[str] | None = None) -> dict[str, Any]:
    """One pair in TRL's conversational preference format, with lengths in tokens and, where asked for, rewards.

    Args:
        pictures: files of a prompt in a set that shows pictures, whose turns are parts; None: a set of text.
    """
    turns = {
        "prompt": candidate.prompt,
        "chosen": [{"role": "assistant", "content": candidate.chosen}],
        "rejected": [{"role": "assistant", "content": candidate.rejected}],
    }
    row: dict[str, Any] = turns
    if pictures is not None:
        row = {FOLDER: pictures, **{name: in_parts(value) for name, value in turns.items()}}
    row |= {"chosen_tokens": candidate.tokens[0], "rejected_tokens": candidate.tokens[1]}
    if candidate.scores is not None:
        row |= {"score_chosen": candidate.scores[0], "score_rejected": candidate.scores[1]}
    return row


def write_dataset(folder: Path, kept: Sequence[Candidate], account: Mapping[str, Any]) -> None:
    """Write both forms and the card; each file whole or not at all.

    Args:
        account: what `synthesize` says about the run.
    Raises:
        ConfigError: the disk does not take it.
    """
    import pyarrow

    if account["pictures"]:
        rows = [row_of(candidate, write_pictures(folder, pictures_in(candidate.prompt))) for candidate in kept]
        table = picture_table(folder, rows)
    else:
        # TRL's trainers render a row's chat with what stands beside it.
        rendering = take_template_args(dict(account["asked"]["model_args"]))
        beside = {"chat_template_kwargs": rendering} if rendering else {}
        rows = [{**row_of(candidate), **beside} for candidate in kept]
        table = pyarrow.Table.from_pylist(rows)
    write_text(folder / JSONL, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    _write_parquet(folder / DATASET / _PARQUET, table)
    write_text(folder / DATASET / "README.md", _card(account))


def _write_parquet(path: Path, table: Any) -> None:
    from pyarrow import parquet

    try:
        with replacing(path) as part:
            parquet.write_table(table, part)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def _card(account: Mapping[str, Any]) -> str:
    import jinja2

    text = resources.files(__package__).joinpath("card.md.jinja").read_text(encoding="utf-8")
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text)
    dtype = account["model"].get("dtype")
    dtypes = dtype if isinstance(dtype, str) else ", ".join(sorted(set((dtype or {}).values())))
    return template.render(**account, data_file=_PARQUET.as_posix(), dtype=dtypes, reasons=REASONS)
