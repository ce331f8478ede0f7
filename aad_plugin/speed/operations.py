"""Operations and waits of a decoding step: what a step costs where launching work takes longer than the work.

An operation is a call of torch's operators that does something: views cost no kernel and are left out. A wait is an
operation whose result the host has to see before it can go on: a number read off a tensor, a list whose length only the
device knows, a copy between devices that blocks. In inference mode a composite operator such as attention counts as one,
whatever it is made of. Counts do not depend on the machine, so a test can hold them.

    counts = per_step(lambda steps: pair.generate(**inputs, max_new_tokens=steps, eos_token_id=None))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operators whose kernels read a length or a truth value back to the host.
_WAITING = frozenset(
    {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "bincount", "_unique2", "unique_dim"}
)
_INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})
_COPIES = frozenset({"_to_copy", "copy_", "_copy_from"})
# Views in all but their schema.
_VIEWS = frozenset({"_unsafe_view"})
_SHORT, _LONG = 4, 12


@dataclass(frozen=True)
class Counts:
    """What was dispatched, in all or per step.

    Attributes:
        operations, waits: numbers of calls; the second are among the first. names: calls by operator.
    """

    operations: float
    waits: float
    names: Counter[str] = field(default_factory=Counter, compare=False)


class Counting(TorchDispatchMode):
    """Counts what is dispatched inside its blocks, all of them together."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.waits = 0

    @property
    def counts(self) -> Counts:
        """What was seen so far."""
        return Counts(sum(self.names.values()), self.waits, self.names)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if not func.is_view and name not in _VIEWS:
            self.names[name] += 1
            self.waits += _waits(name, args, kwargs)
        return func(*args, **kwargs)


def _waits(name: str, args: Any, kwargs: Any) -> bool:
    if name in _COPIES:
        source = args[1] if name == "copy_" else args[0]
        target = args[0].device if name != "_to_copy" else kwargs.get("device") or source.device
        non_blocking = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        return torch.device(target).type != source.device.type and not non_blocking
    if name in _INDEXING:  # a mask is made a list first
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return name in _WAITING


def count(call: Callable[[], Any]) -> Counts:
    """Return what one call dispatches."""
    with Counting() as counting:
        call()
    return counting.counts


def per_step(decode: Callable[[int], Any]) -> Counts:
    """Return what one more token costs.

    Args:
        decode: decodes so many new tokens, no fewer; called with two numbers, so that a prompt's reading cancels out.
    """
    return per_token(lambda steps: count(lambda: decode(steps)))


def per_token(counted: Callable[[int], Counts]) -> Counts:
    """Return what one more token costs, given the counts of so many; called with two numbers."""
    counted(_SHORT)  # what happens once happens here
    short, long = counted(_SHORT), counted(_LONG)
    steps = _LONG - _SHORT
    names = Counter({name: number / steps for name, number in (long.names - short.names).items()})  # type: ignore[misc]
    return Counts((long.operations - short.operations) / steps, (long.waits - short.waits) / steps, names)
