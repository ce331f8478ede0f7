"""Explain answers of a loaded pair: decode and read every step, or read an answer that somebody else wrote.

explain(AlignedPair.from_pretrained("demo"), "How do I keep bread fresh?", max_new_tokens=64).reward
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from aad_plugin.errors import ConfigError
from aad_plugin.explain.records import Explanation
from aad_plugin.explain.shown_pictures import preview
from aad_plugin.explain.texts import steps_of
from aad_plugin.pair.answering import answer, check_room, encode_batch, token_bar
from aad_plugin.pair.encoding import Prompt, pictures_of, shown_text
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.pickers import picker_for
from aad_plugin.pair.recorder import Reading, read_answer
from aad_plugin.pair.rounding import coarsest_dtype
from aad_plugin.pair.stopping import end_ids
from aad_plugin.pair.strategies import decode
from aad_plugin.settings import DecodingSettings

_SHOWN_SIDE = 480  # pixels of a picture's copy on a page


def explain(
    pair: AlignedPair,
    prompt: Prompt,
    *,
    strategy: str | None = None,
    max_new_tokens: int = 256,
    chat: bool | None = None,
    beside_greedy: bool = True,
    progress: bool = False,
    **settings: Any,
) -> Explanation:
    """Answer one prompt and say at every step what both models found.

    Args:
        prompt, strategy, max_new_tokens, chat, settings: as for :func:`aad_plugin.answer`.
        beside_greedy: also decode the policy's greedy answer. progress: draw a bar of tokens on the standard error.
    Returns:
        the answer :func:`aad_plugin.answer` gives, with its steps; the figures of aad, eft, greedy, sample and
        best_of_n are those the tokens were chosen by (what the strategy did not read of the reference is asked once
        afterwards), those of ``reference`` are read again.
    Raises:
        ConfigError: as :func:`aad_plugin.answer`.
    """
    chosen = pair.settings.override(strategy=strategy, **settings)
    batch = encode_batch(pair, [prompt], chat)
    check_room(pair, [batch.ids[0].tolist()], max_new_tokens)
    readings: list[Reading] = []
    with token_bar(chosen.strategy, max_new_tokens, 1, progress) as on_step:
        decode(
            pair, batch.ids, batch.mask, chosen, multimodal=batch.multimodal,
            picker=picker_for(chosen, shows_pictures=batch.multimodal is not None), prompts=[prompt],
            on_readings=readings.extend, on_step=functools.partial(on_step, 0), max_new_tokens=max_new_tokens,
        )  # fmt: skip
    steps = steps_of(readings[0], pair.tokenizer)
    text = "".join(step.chosen.text for step in steps if not step.special)
    greedy = text if chosen.strategy == "greedy" else None
    if beside_greedy and greedy is None:
        (greedy,) = answer(
            pair, [prompt], strategy="greedy", max_new_tokens=max_new_tokens, chat=chat, progress=progress
        )
    truncated = len(steps) == max_new_tokens and steps[-1].chosen.id not in end_ids(pair.generation_config.eos_token_id)
    return Explanation(
        prompt=shown_text(prompt),
        answer=text,
        settings=_settings(chosen),
        steps=steps,
        truncated=truncated,
        greedy=greedy if beside_greedy else None,
        dtype=_dtype(pair),
        pair=_pair_name(pair),
        pictures=tuple(preview(one, _SHOWN_SIDE, "PNG") for one in pictures_of(prompt)),
    )


def explain_answer(
    pair: AlignedPair, prompt: Prompt, text: str, *, chat: bool | None = None, alpha: float | None = None
) -> Explanation:
    """Score any text as an answer to a prompt, token by token; nothing is decoded.

    Args:
        text: the answer; it is tokenised after the prompt, without an end token.
        alpha: of the plausible sets; default: the pair's.
    Raises:
        ConfigError: no text, or prompt and text exceed the context.
    """
    batch = encode_batch(pair, [prompt], chat)
    ids, mask = batch.ids, batch.mask
    tokens = pair.tokenizer(text, add_special_tokens=False)["input_ids"]
    if not tokens:
        raise ConfigError("the answer is empty: expected text to score")
    check_room(pair, [ids[0].tolist()], len(tokens), what="those of the answer")
    chosen = pair.settings.override(alpha=alpha)
    whole = torch.cat([ids, torch.tensor([tokens], device=ids.device)], dim=1)
    (reading,) = read_answer(pair, whole, mask, chosen.alpha, batch.multimodal)
    settings = {"strategy": None, "alpha": chosen.alpha}
    steps = steps_of(reading, pair.tokenizer)
    return Explanation(
        shown_text(prompt),
        text,
        settings,
        steps,
        given=True,
        dtype=_dtype(pair),
        pair=_pair_name(pair),
        pictures=tuple(preview(one, _SHOWN_SIDE, "PNG") for one in pictures_of(prompt)),
    )


def _pair_name(pair: AlignedPair) -> str:
    """The preset's name, or the last parts of its checkpoints' paths."""
    source = pair.source
    if source is None:
        return ""
    parts = source.parts().values()
    return source.preset or " + ".join("/".join(str(part).rstrip("/").split("/")[-2:]) for part in parts)


def _dtype(pair: AlignedPair) -> str:
    return str(coarsest_dtype(pair.sides.models().values())).removeprefix("torch.")


def _settings(chosen: DecodingSettings) -> dict[str, Any]:
    return {**chosen.relevant(), "alpha": chosen.alpha}
