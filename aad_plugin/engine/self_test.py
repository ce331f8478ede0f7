"""Does the engine choose the tokens that transformers chooses? A few prompts, before anything is served.

Choices are held along one text, the float32 pair's own answer: the engine goes on from every fourth of its steps, so that
a choice that rounding turned costs the three that follow it and not the rest of an answer.

The expectation is made in a process of its own, so that its weights are gone when the engine loads:

    python -m aad_plugin.engine.self_test '{"pair": "demo"}' expected.json
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.decoding import IMPLAUSIBLE
from aad_plugin.errors import AADError, ConfigError
from aad_plugin.files.cache import proof_file, remember

Decode = Callable[[Sequence[Mapping[str, Any]]], Sequence[list[int]]]

PROMPTS = (
    "How do I keep bread fresh?",
    "Name three rivers and say where they flow.",
    "Explain in two sentences what a lighthouse is for.",
)
STEPS = 16  # of a text
TOKENS = 4  # asked of the engine at a time
# Kernels of two engines differ by rounding; a choice this close may fall either way.
_CLOSE = {"float32": 1e-4}
_CLOSE_ROUNDED = 0.25


class Mismatch(AADError):
    """The engine's tokens are not those of the transformers path."""


@dataclass(frozen=True)
class Agreement:
    """What a self-test found.

    Attributes:
        tokens: that agree. expected: tokens that were compared with. near_tie: the largest margin, in nats, at which the
            engines parted; None where they never did. close: the margin up to which rounding may decide.
    """

    tokens: int
    expected: int
    near_tie: float | None
    close: float

    def __str__(self) -> str:
        """Return the one line that a server says."""
        same = f"self-test passed: {self.tokens} of {self.expected} tokens as with transformers"
        if self.near_tie is None:
            return same
        return (
            f"{same}; where an answer parts, two choices were as good as equal (largest such margin {self.near_tie:.2g} "
            f"nats; up to {self.close:g} is rounding), and the rest of that answer is not compared"
        )


class EngineProof:
    """A self-test that is passed once: what passed is remembered under everything that could change a token.

    Args:
        account: JSON-able; weights' marks, options, versions. parts: of the pair, as ``load_pair`` takes them. dtype: the
            engine's, "auto" for the checkpoints' own.
    Attributes:
        status: "proven", "remembered" or "left out" (``AAD_PLUGIN_PROOF=0``). seconds: that the test took.
    """

    def __init__(self, account: Mapping[str, Any], parts: dict[str, Any], dtype: str) -> None:
        self._file = proof_file({**account, "test": [STEPS, TOKENS, "float32"]}, "vllm-")
        self._dtype = dtype
        self.status, self.seconds = "remembered" if self._file.is_file() else "proven", 0.0
        if os.environ.get("AAD_PLUGIN_PROOF") == "0":
            self.status = "left out"
        start = time.monotonic()
        # Before the engine is there, which fills a machine's memory.
        self._expected = expected_tokens(parts, dtype) if self.status == "proven" else []
        self.seconds = time.monotonic() - start

    def hold(self, decode: Decode) -> None:
        """Let the engine answer, and remember that its tokens are those of transformers.

        Args:
            decode: from rows with "ids" and "strategy" to at most ``TOKENS`` tokens of each.
        Raises:
            Mismatch: they are not.
        """
        if self.status != "proven":
            return
        start = time.monotonic()
        found = decode(self._expected)
        agreed = compare_tokens(self._expected, [list(tokens) for tokens in found], self._dtype)
        self.seconds += time.monotonic() - start
        remember(self._file, {"agreed": agreed.tokens, "seconds": round(self.seconds, 1)})


def expected_tokens(parts: dict[str, Any], dtype: str) -> list[dict[str, Any]]:
    """Decode the prompts on transformers in a child process, in float32 where memory holds it: by AAD, and by the guides
    where there are any.

    Args:
        parts: of the pair, and its settings, as ``load_pair`` takes them.
    Returns:
        for every place of every text where the engine goes on: strategy, prompt, the text's ids so far, the tokens that
        follow, their margins, and the step of the first.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "expected.json"
        given = json.dumps({**parts, "dtype": dtype} if dtype != "auto" else parts)
        done = subprocess.run(
            [sys.executable, "-m", __name__, given, str(target)], capture_output=True, text=True, check=False
        )
        if not target.is_file():
            cause = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise ConfigError(
                f"the self-test could not load the pair with transformers: {cause} (AAD_PLUGIN_PROOF=0 leaves it out)"
            )
        return json.loads(target.read_text())


def compare_tokens(expected: list[dict[str, Any]], found: list[list[int]], dtype: str) -> Agreement:
    """Return how many tokens agree, and why others do not.

    A difference ends its prompt where the choice was closer than rounding.

    Raises:
        Mismatch: the engine chose another token where the choice was clear.
    """
    close = _CLOSE.get(dtype, _CLOSE_ROUNDED)
    agreed, parted = 0, []
    for one, tokens in zip(expected, found, strict=True):
        for step, (wanted, margin) in enumerate(zip(one["tokens"], one["margins"], strict=True)):
            got = tokens[step] if step < len(tokens) else None
            if got == wanted:
                agreed += 1
            elif margin > close:
                raise Mismatch(
                    f"the engine chose token {got} where transformers chooses {wanted} by a margin of {margin:.3g} "
                    f"(prompt {one['prompt']!r}, step {one.get('start', 0) + step}): not served. Try dtype float32 to "
                    "see whether it is rounding, and report it with the engine's version otherwise"
                )
            else:
                parted.append(margin)
                break
    total = sum(len(one["tokens"]) for one in expected)
    return Agreement(agreed, total, max(parted, default=None), close)


def _main(given: str, target: str) -> None:
    """Write what transformers chooses, with the gap between the two best scores and to the threshold."""
    import torch

    from aad_plugin.pair.answering import encode_prompts
    from aad_plugin.pair.model import load_pair

    parts = json.loads(given)
    strategies = [name for name in ("aad", "guided") if _reads(parts, name)]
    pair = load_pair(**{**parts, "dtype": "float32"} if _holds_float32(parts) else parts, strategy=strategies[0])
    found = []
    for strategy, prompt in itertools.product(strategies, PROMPTS):
        ids, mask = encode_prompts(pair, [prompt])
        with torch.no_grad():
            out = pair.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=STEPS, output_scores=True,
                return_dict_in_generate=True, strategy=strategy,
            )  # fmt: skip
        text = out.sequences[0].tolist()
        # Rounding grows with the weights of guides.
        size = 1 + 2 * sum(pair.settings.guide_scales(len(pair.guides.members))) if strategy == "guided" else 1
        margins = [_margin(scores[0], pair.settings.alpha) / size for scores in out.scores]
        for start in range(0, len(margins), TOKENS):
            at, end = ids.shape[1] + start, min(start + TOKENS, len(margins))
            found.append(
                {
                    "strategy": strategy, "prompt": prompt, "start": start, "ids": text[:at],
                    "tokens": text[at : ids.shape[1] + end], "margins": margins[start:end],
                }
            )  # fmt: skip
    Path(target).write_text(json.dumps(found))


def _reads(parts: Mapping[str, Any], strategy: str) -> bool:
    """Whether a pair has what a strategy reads."""
    source = _source(parts)
    return bool(source.guides) if strategy == "guided" else not source.is_alone


def _source(parts: Mapping[str, Any]) -> Any:
    from aad_plugin.sources.parts import GUIDE_NAMES, PART_NAMES, resolve

    named = {name: parts[name] for name in (*PART_NAMES, *GUIDE_NAMES) if name in parts}
    return resolve(parts.get("pair"), **named)


def _holds_float32(parts: Mapping[str, Any]) -> bool:
    """Whether this machine's free memory holds the pair in float32."""
    import psutil
    from transformers import AutoConfig

    from aad_plugin.engine.plan import part
    from aad_plugin.pair.guide_loading import cast

    source = _source(parts)
    models = [source.backbone] if source.shares_base or source.is_alone else [source.backbone, source.reference]
    models += [model.base or model.path for model in cast(source).checkpoints.values()]
    try:
        size = sum(part(AutoConfig.from_pretrained(model), "float32").weight_bytes for model in models if model)
    except (ImportError, OSError, ValueError):  # loading says why
        return False
    return size < 0.8 * psutil.virtual_memory().available


def _margin(scores: Any, alpha: float) -> float:
    """How far a choice is from another one: the gap of the two best plausible scores, or of the best implausible token
    from the threshold (implausible scores keep the policy's log-odds against its favourite)."""
    plausible = scores[scores > IMPLAUSIBLE / 2].sort(descending=True).values.tolist()
    outside = scores[scores <= IMPLAUSIBLE / 2]
    gaps = [plausible[0] - plausible[1]] if len(plausible) > 1 else []
    if len(outside):
        gaps.append(math.log(alpha) - (float(outside.max()) - IMPLAUSIBLE))
    return min(gaps, default=1.0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
