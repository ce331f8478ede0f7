"""Answer prompts with a loaded pair: text in, text out. The Python API behind ``aad generate``.

from aad_plugin import AlignedPair, answer
answer(AlignedPair.from_pretrained("demo"), ["How do I boil an egg?"], max_new_tokens=64)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tqdm.auto import tqdm

from aad_plugin.errors import ConfigError
from aad_plugin.pair.encoding import Encoded, Prompt, encode, may_share_a_batch, render, token_ids
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.pickers import picker_for
from aad_plugin.pair.stopping import cut
from aad_plugin.pair.strategies import decode


def answer(
    pair: AlignedPair,
    prompts: Sequence[Prompt],
    *,
    strategy: str | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 8,
    chat: bool | None = None,
    stop: Sequence[str] = (),
    progress: bool = False,
    **settings: Any,
) -> list[str]:
    """Answer each prompt.

    Args:
        prompts: plain strings, or chat messages [{"role": …, "content": …}, …]; content is a string, or parts for a
            pair that sees: {"type": "text", "text": …}, {"type": "image", "image": <path, bytes, data: URL, Pillow image>}.
        strategy: any strategy; default the pair's.
        max_new_tokens: budget per answer, in tokens.
        batch_size: prompts decoded together; changes no answer in float32. With a draft model it is 1.
        chat: wrap strings as one user turn by the chat template; default: whenever the tokenizer has one.
        stop: strings that end an answer (cut off).
        progress: draw a bar of tokens on the standard error.
        **settings: alpha, n, picker, eft_scale, temperature, top_p, seed.
    Returns:
        one string per prompt, in order.
    Raises:
        ConfigError: an empty prompt, a prompt that leaves no room in the context, a bad setting.
    """
    if isinstance(prompts, str):
        raise ConfigError("prompts is a list, got one string: pass [prompt]")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    stop = [stop] if isinstance(stop, str) else stop
    chosen = pair.settings.override(strategy=strategy, **settings)
    texts = [render(pair, prompt, chat, number) for number, prompt in enumerate(prompts)]
    encoded = [token_ids(pair, text) for text in texts]
    check_room(pair, encoded, max_new_tokens)
    # lm-eval's order, ties too: in 16 bit an answer depends a little on the prompts beside it.
    order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i]), texts[i].text))
    picker = picker_for(chosen, shows_pictures=any(text.pictures for text in texts))
    answers = [""] * len(encoded)
    batch_size = batch_size if pair.draft is None and may_share_a_batch(pair, texts) else 1
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    with token_bar(chosen.strategy, max_new_tokens, len(batches), progress) as on_step:
        for number, rows in enumerate(batches):
            batch = encode(pair, [texts[i] for i in rows])
            tokens = decode(
                pair, batch.ids, batch.mask, chosen, multimodal=batch.multimodal, stop=stop, picker=picker,
                prompts=[prompts[i] for i in rows], rendered=[texts[i].text for i in rows],
                on_step=functools.partial(on_step, number), max_new_tokens=max_new_tokens,
            )  # fmt: skip
            on_step(number, max_new_tokens)
            for i, row in zip(rows, tokens, strict=True):
                answers[i] = cut(pair.tokenizer.decode(row[batch.ids.shape[1] :], skip_special_tokens=True), stop)
    return answers


@contextmanager
def token_bar(name: str, max_new_tokens: int, num_batches: int, progress: bool) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar of decoding steps, gone when it is done; yields what is told (number of the batch, its tokens so far).

    Args:
        max_new_tokens: of each batch; a batch that ends earlier counts whole. progress: False draws nothing.
    """
    total = max_new_tokens * num_batches
    with tqdm(total=total, disable=not progress, unit="token", desc=name, leave=False) as bar:
        yield lambda batch, tokens: bar.update(max(0, batch * max_new_tokens + tokens - bar.n))


def encode_prompts(
    pair: AlignedPair, prompts: Sequence[Prompt], chat: bool | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (B, T) left-padded token ids and mask of prompts without pictures; arguments as in :func:`answer`."""
    batch = encode_batch(pair, prompts, chat)
    if batch.multimodal is not None:
        raise ConfigError("these prompts show pictures, and only text is read here: leave them out")
    return batch.ids, batch.mask


def encode_batch(pair: AlignedPair, prompts: Sequence[Prompt], chat: bool | None = None) -> Encoded:
    """Return prompts as a batch; arguments as in :func:`answer`."""
    return encode(pair, [render(pair, prompt, chat, number) for number, prompt in enumerate(prompts)])


def check_room(pair: AlignedPair, encoded: list[list[int]], new_tokens: int, what: str = "new ones") -> None:
    """Raise ConfigError unless every prompt has tokens and leaves room in the context for ``new_tokens`` more."""
    if new_tokens < 1:
        raise ConfigError(f"max_new_tokens must be at least 1, got {new_tokens}")
    context = pair.config.max_position_embeddings
    for number, ids in enumerate(encoded):
        if not ids:
            raise ConfigError(f"prompt {number + 1} encodes to no token: expected text to answer")
        if context and len(ids) + new_tokens > context:
            raise ConfigError(
                f"prompt {number + 1} has {len(ids)} tokens; with {new_tokens} {what} it exceeds the context of "
                f"{context}: shorten it or lower max_new_tokens"
            )
