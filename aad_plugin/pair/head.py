"""The last projection of a causal LM: which positions it reads, and single columns of it without the rest.

A model's head is a large part of a step (a fifth of the weights of a small model), and AAD needs only the plausible
tokens of the reference. Knows nothing of pairs, caches or scores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aad_plugin.decoding import Candidates

# Weights of a head. To list plausible tokens and read them takes some sixty small operations more, 0.2 to 0.3 ms on a CPU,
# in which it reads about so many.
_COSTLY = 2**21


class HeadInput:
    """Watches what the head of one model reads.

    The kept positions are a strided view of all of them, for which torch (2.13, CPU) expands the head's weights to one
    copy per row of the batch: hundreds of megabytes and seconds at every prefill. The head therefore always reads a
    contiguous copy.

    Args:
        model: its output embeddings get hooks that stay.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.head: Any = model.get_output_embeddings()
        self._rows: int | None = None
        self._hidden: Tensor | None = None
        self._output: Tensor | None = None
        self._is_last: bool | None = None
        # Only a plain head can be asked for its sums before they are rounded.
        self._sums_on_gpu = type(self.head) is nn.Linear and not hasattr(self.head, "_hf_hook")
        self.head.register_forward_pre_hook(self._before)
        self.head.register_forward_hook(self._after)

    @property
    def gives_columns(self) -> bool:
        """Whether single logits can be had from the head's weights: a plain linear head whose output is the model's (no
        soft cap, no scale), all of it at hand. False until :meth:`compare` saw one forward."""
        return bool(self._is_last)

    @property
    def gives_sums(self) -> bool:
        """Whether :meth:`exact` gives float32 logits: a plain 16-bit head on a GPU, which adds up in float32."""
        weight = getattr(self.head, "weight", None)
        return self._sums_on_gpu and weight is not None and weight.is_cuda and weight.element_size() == 2

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """Inside the block the head keeps its sums in float32 where it can, see :attr:`gives_sums`: a 16-bit head rounds
        a logit to 1/8 and more, and a token's advantage is a difference of two."""
        if not self.gives_sums:
            yield
            return
        # Outside the block the head is as it was found: a forward of its own would keep it from being packed on a CPU.
        before = vars(self.head).get("forward")
        self.head.forward = self._forward
        try:
            yield
        finally:
            if before is None:
                del self.head.forward
            else:
                self.head.forward = before

    @property
    def is_costly(self) -> bool:
        """Whether to leave columns out spares more than finding the plausible ones costs: on a CPU with a large head. An
        accelerator reads a head faster than it answers which tokens are plausible."""
        weight = getattr(self.head, "weight", None)
        return weight is not None and weight.device.type == "cpu" and weight.numel() >= _COSTLY

    def compare(self, logits: Tensor) -> None:
        """Find out, once, whether what the head gave is what the model gave; blocks on the device."""
        if self._is_last is None and self._output is not None:
            weight = getattr(self.head, "weight", None)
            plain = type(self.head) is nn.Linear and type(weight) is nn.Parameter and weight.device == logits.device
            self._is_last = plain and torch.equal(self._output[:, -logits.shape[1] :], logits)
        self._output = None

    @contextlib.contextmanager
    def project(self, rows: int) -> Iterator[None]:
        """Inside the block the head projects the first ``rows`` rows of the batch and keeps what the others read."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def take(self, keep: int) -> Tensor:
        """Return (B, keep, H), what the head was to read at the last forward inside :meth:`project`, and let go of it."""
        assert self._hidden is not None
        hidden, self._hidden = self._hidden, None
        return hidden[:, -keep:]

    def values(self, hidden: Tensor, logits: Tensor, candidates: Candidates) -> Tensor:
        """Return (N,) float32 logits of the candidates.

        Args:
            hidden: (B, K, H), what the head read, or was to read.
            logits: (B · K, V), what the model gave for them; (0, V) if nothing was projected.
        """
        rows, tokens = candidates.rows, candidates.tokens
        if not self.gives_columns:
            return logits[rows.to(logits.device), tokens.to(logits.device)].float()
        hidden, weight, bias = hidden.flatten(0, 1), self.head.weight, self.head.bias  # (B, K, H) -> (B · K, H)
        if len(tokens) * 8 > len(weight):  # more columns than are cheaper to gather than to project
            return (logits if len(logits) else self.head(hidden))[rows, tokens].float()
        # Summed in float32: a 16-bit head rounds a logit to 1/8 and more, and a token's advantage is a difference. Both
        # sides go this way, so that equal models differ by nothing.
        # (N, H) rows of the head times (N, H) of what it reads -> (N,)
        columns = (weight[tokens.to(weight.device)].float() * hidden[rows.to(hidden.device)].float()).sum(-1)
        return columns if bias is None else columns + bias[tokens.to(bias.device)].float()

    def _forward(self, hidden: Tensor) -> Tensor:
        weight, bias = self.head.weight, self.head.bias
        if hidden.dtype != weight.dtype:
            return nn.functional.linear(hidden, weight, bias)
        sums = torch.mm(hidden.flatten(0, -2), weight.t(), out_dtype=torch.float32)  # (B, K, H) -> (B · K, V)
        sums = sums if bias is None else sums + bias
        return sums.view(*hidden.shape[:-1], -1)  # (B · K, V) -> (B, K, V)

    def _before(self, module: nn.Module, args: tuple) -> tuple:
        hidden = args[0]
        if self._rows is not None:
            self._hidden = hidden
            hidden = hidden[: self._rows]  # (B, K, H) -> (rows, K, H)
        # A single row counts as contiguous whatever its strides say, and is expanded all the same: they are made anew.
        return (hidden.contiguous().flatten().view(hidden.shape), *args[1:])

    def _after(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        if self._is_last is None:
            self._output = output
