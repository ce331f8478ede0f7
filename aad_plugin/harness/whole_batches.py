"""Answers that survive a kill and come out as if there had been none, in any dtype.

In 16-bit arithmetic the rows of a batch decide how an answer is rounded, so a run that goes on must decode the very
batches that an undisturbed one would. Prompts are therefore divided once, by length, and a batch is kept whole or asked
again whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from aad_plugin.harness.answer_store import AnswerStore, Stored, answers_folder, request_key
from aad_plugin.harness.asking import ask
from aad_plugin.harness.gen_kwargs import split_gen_kwargs
from aad_plugin.settings import DecodingSettings


def open_store(model: Any, folder: Path) -> AnswerStore:
    """The answers of these weights (and dtype, versions) below a folder."""
    fingerprint = DecodingSettings().fingerprint(model=model.model_account())
    return AnswerStore(answers_folder(str(folder), fingerprint))


def answer_in_batches(
    model: Any,
    contexts: Sequence[str],
    gen_kwargs: Mapping[str, Any],
    store: AnswerStore,
    *,
    batch_size: int,
    label: str,
) -> list[Stored]:
    """Answer rendered prompts under one setting; blocks on the model, shows a bar.

    Args:
        model: from `asking.load_model`, with ``answers_dir=none`` and this batch size.
        contexts: distinct rendered prompts. gen_kwargs: strategy and budget. store: from `open_store`.
        label: of the bar.
    """
    settings, sample, options = split_gen_kwargs(gen_kwargs, model.settings)
    keys = [request_key(context, settings, sample, options) for context in contexts]
    by_length = sorted(range(len(contexts)), key=lambda row: -len(contexts[row]))
    batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    with tqdm(total=len(contexts), desc=label, unit="answer") as bar:
        for rows in batches:
            if any(store.find(keys[row]) is None for row in rows):
                answers = ask(model, [contexts[row] for row in rows], gen_kwargs, progress=False)
                for row, answer in zip(rows, answers, strict=True):
                    store.add(keys[row], answer)
            bar.update(len(rows))
    found = [store.find(key) for key in keys]
    return [answer for answer in found if answer is not None]
