"""Public comparisons that people judged: LLMBar, MT-Bench, PandaLM, or a file of one's own; and judges' published replies.

A file of one's own has rows with prompt, candidate, baseline, and `label` or several people's `labels` (candidate,
baseline, tie, or a number in 0..1); `set` names the part it belongs to.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.judges.checks.label_menu import LabelMenu
from aad_plugin.judges.items import Comparison, Verdict
from aad_plugin.texts.messages import Reply, prompt_hash
from aad_plugin.texts.prompts import check_text, prompt_of
from aad_plugin.texts.rows import json_rows, rows

SETS = ("llmbar", "mt-bench-human", "pandalm")
_FILES = {
    "llmbar": ("llmbar.jsonl.gz", "llmbar.jsonl", "LLMBar/Dataset/LLMBar", "LLMBar/Dataset"),
    "mt-bench-human": (
        "mt_bench_human_judgments.parquet", "mt_bench_human_judgments.json", "llmbar_processed_mt_bench.jsonl.gz",
        "LLMBar/Dataset/Processed/MT-Bench/dataset.json",
    ),
    "pandalm": ("pandalm_testset.jsonl.gz", "testset-v1.json", "PandaLM/data/testset-v1.json"),
}  # fmt: skip
_SOURCES = {
    "llmbar": "github.com/princeton-nlp/LLMBar (folder Dataset)",
    "mt-bench-human": "lmsys/mt_bench_human_judgments on the hub, or Dataset/Processed/MT-Bench of princeton-nlp/LLMBar",
    "pandalm": "github.com/WeOpenML/PandaLM (data/testset-v1.json)",
}
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class HumanItem:
    """One comparison that people judged: p(candidate better) by each of them, and the part of the set it belongs to.

    `index` is upstream's number of it, by which published replies name it; "" where it has none.
    """

    comparison: Comparison
    people: tuple[float, ...]
    subset: str = ""
    index: str = ""

    @property
    def majority(self) -> float | None:
        """What more than half of them say; None where no verdict has so many."""
        (side, count), *_ = Counter(_sign(p) for p in self.people).most_common(1)
        return (side + 1) / 2 if 2 * count > len(self.people) else None


def read_set(name: str, data: str | Path | None = None) -> list[HumanItem]:
    """The items of a public set, or of a file.

    Args:
        name: one of SETS, or the path of a file as described above. data: upstream's file or folder, or a folder that
            holds it; None looks where AAD_DATA_DIR says and in the current folder.
    Raises:
        ConfigError: nothing is there by that name, with the place upstream keeps it; or a row is malformed, with its line.
    """
    if name not in SETS:
        return _checked(name, _own(Path(name)) if Path(name).exists() else _unknown(name))
    path = _found(name, Path(data) if data else None)
    readers: dict[str, Callable[[Path], Iterator[HumanItem]]] = {
        "llmbar": _llmbar, "mt-bench-human": _mt_bench, "pandalm": _pandalm,
    }  # fmt: skip
    return _checked(str(path), readers[name](path))


def read_replies(path: str | Path, items: Sequence[HumanItem]) -> list[Verdict]:
    """Another judge's published replies as verdicts, one per item; what states no verdict is unjudged.

    Rows name an item by `idx` (or `id`) and hold `verdict` or one field that ends in `_result`: 1 or candidate, 2 or
    baseline, 0 or tie. It is one order only, the one people saw.

    Raises:
        ConfigError: a row without them, no row that belongs to any item, or two rows or items of one number.
    """
    said: dict[str, Any] = {}
    for place, row in json_rows(Path(path)):
        fields = [name for name in row if name == "verdict" or name.endswith("_result")]
        own = row.get("idx", row.get("id"))
        if own is None or len(fields) != 1:
            raise ConfigError(
                f"{place}: a published reply needs idx and verdict (or one field that ends in _result), got "
                f"{', '.join(row) or 'nothing'}"
            )
        if str(own) in said:
            raise ConfigError(f"{place}: a second reply to item {own}; expected one each, so keep the one that counts")
        said[str(own)] = row[fields[0]]
    shared = [index for index, num in Counter(item.index for item in items).items() if num > 1 and index in said]
    if shared:
        raise ConfigError(f"{path} replies to item {shared[0]}, but several of the {len(items)} items have that number")
    name = Path(path).name
    verdicts = [_verdict(item, said, name) for item in items]
    if not any(v.judged for v in verdicts):
        raise ConfigError(f"no reply of {path} states a verdict on any of the {len(items)} items")
    return verdicts


def _verdict(item: HumanItem, said: Mapping[str, Any], name: str) -> Verdict:
    known = {"1": 1.0, "candidate": 1.0, "2": 0.0, "baseline": 0.0, "0": 0.5, "tie": 0.5}
    common: dict[str, Any] = {"id": item.comparison.id, "prompt": prompt_hash(item.comparison.prompt), "judge": name}
    if item.index not in said:
        return Verdict(**common, reason="not_asked")
    p = known.get(str(said[item.index]).strip().lower())
    if p is None:
        return Verdict(**common, reason="unreadable", detail=repr(said[item.index])[:100])
    return Verdict(**common, p=p, orders=(p,))


def _own(path: Path) -> Iterator[HumanItem]:
    menu = LabelMenu("side")
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    placed = json_rows(path) if kind in ("json", "jsonl") else _numbered(path)
    for number, (place, row) in enumerate(placed):
        _need(row, place, "candidate", "baseline")
        given = row.get("labels") if row.get("labels") is not None else [row.get("label")]
        if not isinstance(given, list) or not given or None in given:
            raise ConfigError(f"{place}: needs label, or labels as a list of people's, got {', '.join(map(str, row))}")
        people = tuple(float(menu.read(label, place)) for label in given)
        texts = [str(row[name]) for name in ("candidate", "baseline")]
        check_text(place, *texts)
        comparison = Comparison(str(number), prompt_of(row, place), *texts)
        yield HumanItem(comparison, people, str(row.get("set") or ""), str(row.get("idx", row.get("id", number))))


def _llmbar(path: Path) -> Iterator[HumanItem]:
    files = sorted(path.rglob("dataset.json")) if path.is_dir() else [path]
    wanted = [file for file in files if not {"CaseStudy", "Processed"} & set(file.parts)]
    number = 0
    for file in wanted:
        part = file.parent.name if path.is_dir() else ""
        for place, row in json_rows(file):
            yield _two_outputs(str(number), place, row, str(row.get("set") or part))
            number += 1


def _two_outputs(number: str, place: str, row: Mapping[str, Any], subset: str = "") -> HumanItem:
    """A row of LLMBar: input, output_1, output_2, and label 1 or 2 for the better one."""
    _need(row, place, "input", "output_1", "output_2", "label")
    if str(row["label"]) not in ("1", "2"):
        raise ConfigError(f"{place}: the label is 1 or 2, for output_1 or output_2, got {row['label']!r}")
    comparison = Comparison(number, str(row["input"]), str(row["output_1"]), str(row["output_2"]))
    return HumanItem(comparison, (float(str(row["label"]) == "1"),), subset, number)


def _mt_bench(path: Path) -> Iterator[HumanItem]:
    placed = list(json_rows(path) if path.suffix in (".json", ".jsonl", ".gz") else _numbered(path))
    if placed and "conversation_a" not in placed[0][1]:
        for number, (place, row) in enumerate(placed):
            yield _two_outputs(str(number), place, row)
        return
    meetings: dict[tuple[Any, ...], list[tuple[str, Mapping[str, Any]]]] = {}
    for place, row in placed:
        _need(row, place, "question_id", "model_a", "model_b", "winner", "turn", "conversation_a", "conversation_b")
        sides = sorted((str(row["model_a"]), str(row["model_b"])))
        meetings.setdefault((row["question_id"], row["turn"], *sides), []).append((place, row))
    for number, votes in enumerate(meetings.values()):
        yield _meeting(number, votes)


def _meeting(number: int, votes: Sequence[tuple[str, Mapping[str, Any]]]) -> HumanItem:
    """Several people's votes on two models' answers to a turn; whichever vote comes first says which is the candidate."""
    first = votes[0][1]
    people = []
    for place, row in votes:
        sides = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (inconsistent)": 0.5}
        if row["winner"] not in sides:
            raise ConfigError(f"{place}: the winner is model_a, model_b or tie, got {row['winner']!r}")
        p = sides[row["winner"]]
        people.append(p if row["model_a"] == first["model_a"] else 1 - p)
    turn = int(first["turn"])
    said = [[str(one["content"]) for one in first[side]] for side in ("conversation_a", "conversation_b")]
    asked = said[0][: 2 * turn : 2]
    prompt: Any = asked[0] if turn == 1 else [{"role": "user", "content": text} for text in asked]
    replies: list[Reply] = [tuple(one[1 : 2 * turn : 2]) if turn > 1 else one[1] for one in said]
    return HumanItem(Comparison(str(number), prompt, *replies), tuple(people), f"turn {turn}", str(number))


def _pandalm(path: Path) -> Iterator[HumanItem]:
    for number, (place, row) in enumerate(json_rows(path)):
        annotators = sorted(name for name in row if name.startswith("annotator"))
        _need(row, place, "instruction", "response1", "response2", *(annotators or ["annotator1"]))
        sides = {"1": 1.0, "2": 0.0, "0": 0.5}
        if any(str(row[name]) not in sides for name in annotators):
            raise ConfigError(f"{place}: an annotator says 0 (tie), 1 or 2, got {[row[name] for name in annotators]}")
        prompt = "\n\n".join(filter(None, (str(row["instruction"]), str(row.get("input") or ""))))
        comparison = Comparison(str(number), prompt, str(row["response1"]), str(row["response2"]))
        people = tuple(sides[str(row[name])] for name in annotators)
        yield HumanItem(comparison, people, "", str(row.get("idx", number)))


def _found(name: str, given: Path | None) -> Path:
    if given is not None and (given.is_file() or (name == "llmbar" and any(given.rglob("dataset.json")))):
        return given
    folders = [given] if given is not None else [Path(os.environ.get("AAD_DATA_DIR") or "."), Path(".")]
    for folder in folders:
        for file in _FILES[name]:
            if (folder / file).exists():
                return folder / file
    raise ConfigError(
        f"the set {name} is not in {' or '.join(str(f) for f in dict.fromkeys(folders))}: get it from {_SOURCES[name]} and "
        f"pass --data FILE or FOLDER (or AAD_DATA_DIR); looked for {', '.join(_FILES[name])}"
    )


def _unknown(name: str) -> Iterator[HumanItem]:
    raise ConfigError(f"--on takes {', '.join(SETS)} or a file of comparisons with labels; there is no file {name!r}")


def _checked(source: str, items: Iterator[HumanItem]) -> list[HumanItem]:
    found = list(items)
    if not found:
        raise ConfigError(f"{source} holds no comparisons that people judged")
    return found


def _numbered(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(rows(path), start=1):
        yield f"{path}, row {number}", row


def _need(row: Mapping[str, Any], place: str, *names: str) -> None:
    missing = [name for name in names if row.get(name) is None]
    if missing:
        there = ", ".join(map(str, list(row)[:_SHOWN])) or "nothing"
        raise ConfigError(f"{place}: {', '.join(missing)} missing, there are {there}")


def _sign(p: float) -> int:
    return (p > 0.5) - (p < 0.5)
