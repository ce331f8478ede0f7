"""Traces on disk: one row per token of every answer of a run, in compressed Parquet files.

Owns the schema. A folder holds the parts of one model's traces; each part is written whole or not at all, so a killed
run loses the tokens of its last seconds, and those answers are decoded again when it goes on.

    pyarrow.parquet.read_table("DIR").to_pandas().groupby("key").log_policy.sum()
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.explain.records import Step, Token
from aad_plugin.files.whole import replacing

FORMAT = 1
_FLUSH_AFTER_S = 20.0
_FLUSH_AFTER_ROWS = 200_000
_ANSWER = ("key", "task", "doc_id", "strategy", "settings", "prompt_hash", "answer_hash")
_TOKEN = ("id", "text", "log_policy", "log_reference", "guide")


@dataclass(frozen=True)
class AnswerTrace:
    """What is known of one traced answer.

    Args:
        key: identifies the answer among those of one model. task, doc_id: lm-eval's, of the request it was decoded for.
        strategy: its name; settings: JSON of what could change the answer.
        prompt_hash: SHA-256 of the rendered prompt, as in lm-eval's samples. answer_hash: of the answer lm-eval got.
    """

    key: str
    task: str
    doc_id: int
    strategy: str
    settings: str
    prompt_hash: str
    answer_hash: str


def text_hash(text: str) -> str:
    """SHA-256 of a text in hex, as lm-eval's samples hash prompts."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class TraceWriter:
    """Append the traces of one process to a folder; blocks on local disk.

    Args:
        folder: made where it is missing. model: fingerprint of what decodes. account: JSON-able description of it.
        rank: number of this process, names its parts.
    Raises:
        ConfigError: the folder cannot be written, or holds traces of another model.
    """

    def __init__(self, folder: str | Path, model: str, account: Mapping[str, Any], rank: int = 0) -> None:
        self.folder = Path(folder)
        self._about = {"aad_trace": str(FORMAT), "model": model, "account": json.dumps(account, default=str)}
        self._rank = rank
        self._rows: list[dict[str, Any]] = []
        self._since = time.monotonic()
        self._known: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".rank{rank}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(f"traces cannot be written to {self.folder}: {error.strerror or error}") from error
        found = TraceFolder(self.folder) if any(self.folder.glob("*.parquet")) else None
        if found is not None:
            if found.models != {model}:
                others = ", ".join(sorted(found.models - {model}))
                raise ConfigError(
                    f"{self.folder} holds traces of another model ({others}, this one is {model}); pass another folder: "
                    "trace=DIR"
                )
            self._known = {trace.key for trace in found}

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def add(self, trace: AnswerTrace, steps: tuple[Step, ...]) -> None:
        """Keep one answer; written within some seconds, or by `flush`."""
        answer = {name: getattr(trace, name) for name in _ANSWER}
        self._rows += [{**answer, **_token_row(number, step)} for number, step in enumerate(steps)]
        self._known.add(trace.key)
        if time.monotonic() - self._since > _FLUSH_AFTER_S or len(self._rows) > _FLUSH_AFTER_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what was kept as one more part.

        Raises:
            ConfigError: the disk is full; earlier parts stay.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._since = time.monotonic()
        if not self._rows:
            return
        number = len(list(self.folder.glob(f"rank{self._rank}-*.parquet")))
        path = self.folder / f"rank{self._rank}-{number:05d}.parquet"
        try:
            with replacing(path) as part:
                pq.write_table(pa.Table.from_pylist(self._rows, _schema(self._about)), part, compression="zstd")
        except OSError as error:
            raise ConfigError(f"traces cannot be written to {self.folder}: {error.strerror or error}") from error
        self._rows = []


class TraceFolder:
    """Traces read back; the tokens of an answer are read when they are asked for.

    Args:
        folder: with ``*.parquet`` parts.
    Raises:
        ConfigError: no parts in it, or a part that is no trace (named).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.models: set[str] = set()
        self._places: dict[AnswerTrace, tuple[Path, int, int]] = {}
        self._open: tuple[Path, Any] | None = None
        parts = sorted(self.folder.glob("*.parquet"))
        if not parts:
            raise ConfigError(f"{self.folder} holds no traces (*.parquet), as trace=DIR writes them")
        for path in parts:
            self._index(path)

    def __iter__(self) -> Iterator[AnswerTrace]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def steps(self, trace: AnswerTrace) -> tuple[Step, ...]:
        """Return the steps of one answer."""
        path, first, length = self._places[trace]
        if self._open is None or self._open[0] != path:
            self._open = path, self._read(path)
        return tuple(_step(row) for row in self._open[1].slice(first, length).to_pylist())

    def _index(self, path: Path) -> None:
        table = self._read(path, list(_ANSWER))
        about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if about.get("aad_trace") != str(FORMAT):
            raise ConfigError(f"{path} is no trace of this format ({FORMAT}), got {about.get('aad_trace')!r}")
        self.models.add(about["model"])
        first = 0
        for values, rows in itertools.groupby(zip(*(table[name].to_pylist() for name in _ANSWER), strict=True)):
            length = sum(1 for _ in rows)
            self._places[AnswerTrace(*values)] = (path, first, length)
            first += length

    def _read(self, path: Path, columns: list[str] | None = None) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(path).read(columns=columns)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise ConfigError(f"cannot read the traces in {path}: {str(error).splitlines()[0]}") from error


def _schema(about: Mapping[str, str]) -> Any:
    import pyarrow as pa

    token = [("id", pa.int32()), ("text", pa.string()), ("log_policy", pa.float32()), ("log_reference", pa.float32())]
    token.append(("guide", pa.float32()))  # null where nothing guides; files from before have no such column
    texts = ("key", "task", "strategy", "settings", "prompt_hash", "answer_hash")
    fields: list[tuple[str, Any]] = [(name, pa.int64() if name not in texts else pa.string()) for name in _ANSWER]
    fields += [("step", pa.int32()), *token, ("special", pa.bool_())]
    fields += [(f"favourite_{name}", kind) for name, kind in token]
    fields += [("num_plausible", pa.int32()), ("plausible", pa.list_(pa.struct(token)))]
    return pa.schema(fields, metadata=dict(about))


def _token_row(number: int, step: Step) -> dict[str, Any]:
    return {
        "step": number,
        **_fields(step.chosen),
        "special": step.special,
        **{f"favourite_{name}": value for name, value in _fields(step.favourite).items()},
        "num_plausible": step.num_plausible,
        "plausible": [_fields(token) for token in step.plausible],
    }


def _fields(token: Token) -> dict[str, Any]:
    return {name: getattr(token, name) for name in _TOKEN}


def _token(row: Mapping[str, Any], prefix: str = "") -> Token:
    return Token(**{name: row.get(f"{prefix}{name}") for name in _TOKEN})  # type: ignore[arg-type]


def _step(row: Mapping[str, Any]) -> Step:
    return Step(
        chosen=_token(row),
        favourite=_token(row, "favourite_"),
        plausible=tuple(Token(**token) for token in row["plausible"]),
        num_plausible=row["num_plausible"],
        special=row["special"],
    )
