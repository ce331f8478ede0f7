"""Documents of the dialogue tasks: {"id", "prompt"}, a prompt being a string or chat messages; some bring "turns" or
"published", another system's answer.
"""

from __future__ import annotations

import re
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.tasks.data import Row, documents, rows_of
from aad_plugin.texts.answer_files import read_answers
from aad_plugin.texts.messages import prompt_hash
from aad_plugin.texts.thinking import answer_after_thinking

_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def alpaca_eval(data: Any, data_dir: str | None = None, **metadata: Any) -> Any:
    """805 instructions with the baseline's answers; columns instruction, output, generator."""

    def make(row: Row) -> Row:
        return {"prompt": row["instruction"], "published": row["output"], "dataset": row.get("dataset") or ""}

    return documents(make, data, data_dir)


def mt_bench(data: Any, data_dir: str | None = None, **metadata: Any) -> Any:
    """80 questions of two turns; columns question_id, category, turns (FastChat) or prompt_id, prompt (hub)."""
    return documents(_mt_bench, data, data_dir)


def mt_bench_turn2(data: Any, first_turn: str | None = None, data_dir: str | None = None, **metadata: Any) -> Any:
    """The second turns, each after the model's own first reply, which ``first_turn`` names a file of.

    Raises:
        ConfigError: no file is named, or it lacks an answer to a question.
    """
    if not first_turn:
        raise ConfigError(
            "aad_mt_bench_turn2 continues the model's own first replies: run aad_mt_bench with --log_samples first and "
            'pass --metadata \'{"first_turn": "samples_aad_mt_bench_….jsonl"}\' (this package\'s own backends answer '
            "both turns in aad_mt_bench)"
        )
    replies = {prompt_hash(row.prompt): row.text for row in read_answers(first_turn)}

    def make(row: Row) -> Row | None:
        doc = _mt_bench(row)
        reply = replies.get(prompt_hash(doc["turns"][0]))
        if reply is None:
            return None  # the first run may have had a --limit
        first, second = doc.pop("turns")
        said = answer_after_thinking(str(reply))  # thinking is no part of a chat, as in this package's own turns
        turns = [("user", first), ("assistant", str(reply) if said is None else said), ("user", second)]
        return {**doc, "prompt": [{"role": role, "content": text} for role, text in turns]}

    return documents(make, data, data_dir)


def arena_hard(data: Any, data_dir: str | None = None, **metadata: Any) -> Any:
    """Hard prompts with the published baselines' answers where those files are there; columns uid, category, prompt."""
    published = {
        (baseline, row["uid"]): row["messages"][-1]["content"]["answer"]
        for baseline, rows in rows_of(data, "baselines", data_dir)
        for row in rows
    }
    by_category = data.get("baseline_of")  # None: one baseline for all

    def make(row: Row) -> Row:
        doc = {"id": str(row["uid"]), "prompt": row["prompt"], "category": row["category"]}
        if not published:
            return doc
        named = (
            [by_category.get(row["category"], "(none known)")]
            if by_category
            else dict.fromkeys(name for name, _ in published)
        )
        for baseline in named:
            if (baseline, row["uid"]) in published:
                return {**doc, "published": published[baseline, row["uid"]]}
        raise ConfigError(
            f"no answer of {' or '.join(named)}, the baseline of {row['category']} prompts, to {row['uid']}: expected "
            f"{' and '.join(data['local']['baselines'])} complete; put them there, or take all of them away to compare "
            "with the other rivals alone"
        )

    return documents(make, data, data_dir)


def hh_rlhf(data: Any, data_dir: str | None = None, **metadata: Any) -> Any:
    """Dialogues up to the last human turn, each once; columns chosen, rejected."""
    seen: set[str] = set()

    def make(row: Row) -> Row | None:
        return _once(_before_answer(_dialogue(row["chosen"])), seen)

    return documents(make, data, data_dir)


def preference(data: Any, data_dir: str | None = None, **metadata: Any) -> Any:
    """Prompts of a preference set: a column prompt (text or "Human: … Assistant:"), else chosen without its answer."""
    seen: set[str] = set()

    def make(row: Row) -> Row | None:
        prompt = row.get("prompt") or row["chosen"]
        if isinstance(prompt, str):
            turns = _dialogue(prompt) if _TURN.match(prompt) else [{"role": "user", "content": prompt.strip()}]
        else:
            turns = [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
        return _once(_before_answer(turns), seen)

    return documents(make, data, data_dir)


def _mt_bench(row: Row) -> Row:
    turns = row["turns"] if "turns" in row else row["prompt"]
    if isinstance(turns, str) or len(turns) != 2:
        raise ValueError(f"two turns (got {turns!r:.60})")
    number = row["question_id"] if "question_id" in row else row["prompt_id"]
    return {"id": str(number), "prompt": turns[0], "turns": list(turns), "category": row["category"]}


def _dialogue(text: str) -> list[dict[str, str]]:
    """Split "\\n\\nHuman: …\\n\\nAssistant: …" into turns."""
    parts = _TURN.split(text)
    if len(parts) < 3:
        raise ValueError('a dialogue of "Human:" and "Assistant:" turns')
    return [{"role": _ROLES[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]


def _before_answer(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    while turns and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    return turns


def _once(turns: list[dict[str, str]], seen: set[str]) -> Row | None:
    """A document, unless its turns are empty or have come before."""
    if not turns or not all(turn["content"] for turn in turns):
        return None
    key = prompt_hash(turns)
    if key in seen:
        return None
    seen.add(key)
    return {"prompt": turns}
