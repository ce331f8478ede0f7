"""B of a LoRA added to a product that holds A x beside W x: two operators for code that is compiled for a GPU.

A product is `wide` (2T, out + ranks): W x of a layer's shards side by side, then A x: first the policy's, then the
reference's, of each shard in turn. Rows 2t are the policy's and rows 2t + 1 the reference's; B of a side is (R, out), its
shards side by side. Both operators read a product once and write what its reader wants in one kernel, so that an adapter
costs a layer next to nothing where steps are short. On a CPU the same operators are plain torch, for tests.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from vllm.triton_utils import tl, triton

SMALLEST_RANK, LARGEST_RANK = 16, 128  # powers of two between them: sides of a tensor core's tiles
_ROWS, _MORE_ROWS = 16, 64


def columns_per_block(widths: list[int]) -> int:
    """Return how many columns a block takes, a power of two that divides every shard; below 16 there is no kernel."""
    common = math.gcd(*widths)
    return min(128, common & -common)


@triton.jit  # type: ignore[misc]
def _update(  # type: ignore[no-untyped-def]
    wide, upper, rows, stride, start, outputs, columns, place: tl.constexpr, rank: tl.constexpr, count,
    exact: tl.constexpr,
):  # fmt: skip
    """(rows, columns) of B A x of one side: zero in the other side's rows."""
    terms = tl.arange(0, rank)
    mine = (rows < count) & (rows % 2 == place)
    lower = tl.load(wide + rows[:, None] * stride + (start + terms)[None, :], mask=mine[:, None], other=0.0)
    b = tl.load(upper + terms[:, None] * outputs + columns[None, :])
    if exact:
        return tl.dot(lower, b, input_precision="ieee")
    else:
        return tl.dot(lower, b)


@triton.jit(do_not_specialize=["count"])  # type: ignore[misc]
def _add_kernel(  # type: ignore[no-untyped-def]
    wide, policy, reference, out, next_out, last_out, count, stride, outputs, end, next_end,
    shards: tl.constexpr, policy_rank: tl.constexpr, reference_rank: tl.constexpr,
    exact: tl.constexpr, block_rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * block
    shard = (first >= end).to(tl.int32) + (first >= next_end).to(tl.int32)
    begins, ends = 0, end
    if shard == 1:
        out, begins, ends = next_out, end, next_end
    if shard == 2:
        out, begins, ends = last_out, next_end, outputs
    columns = first + tl.arange(0, block)
    rows = (tl.program_id(1) * block_rows + tl.arange(0, block_rows)).to(tl.int64)
    inside = (rows < count)[:, None]
    value = tl.load(wide + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    if policy_rank > 0:
        at = outputs + shard * policy_rank
        value += _update(wide, policy, rows, stride, at, outputs, columns, 0, policy_rank, count, exact)
    if reference_rank > 0:
        at = outputs + shards * policy_rank + shard * reference_rank
        value += _update(wide, reference, rows, stride, at, outputs, columns, 1, reference_rank, count, exact)
    tl.store(out + rows[:, None] * (ends - begins) + (columns - begins)[None, :], value, mask=inside)


@triton.jit(do_not_specialize=["count"])  # type: ignore[misc]
def _gate_kernel(  # type: ignore[no-untyped-def]
    wide, policy, reference, out, count, stride, width,
    policy_rank: tl.constexpr, reference_rank: tl.constexpr,
    exact: tl.constexpr, block_rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * block + tl.arange(0, block)
    rows = (tl.program_id(1) * block_rows + tl.arange(0, block_rows)).to(tl.int64)
    inside = (rows < count)[:, None]
    at = wide + rows[:, None] * stride + columns[None, :]
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    outputs = 2 * width
    start = outputs
    if policy_rank > 0:
        gate += _update(wide, policy, rows, stride, start, outputs, columns, 0, policy_rank, count, exact)
        up += _update(
            wide, policy, rows, stride, start + policy_rank, outputs, columns + width, 0, policy_rank, count, exact
        )
        start += 2 * policy_rank
    if reference_rank > 0:
        gate += _update(wide, reference, rows, stride, start, outputs, columns, 1, reference_rank, count, exact)
        up += _update(
            wide, reference, rows, stride, start + reference_rank, outputs, columns + width, 1, reference_rank, count,
            exact,
        )  # fmt: skip
    value = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + rows[:, None] * width + columns[None, :], value, mask=inside)


@torch.library.custom_op("aad_plugin::add_low_rank", mutates_args=())
def add_low_rank(wide: Tensor, policy: Tensor | None, reference: Tensor | None, widths: list[int]) -> list[Tensor]:
    """Return, of each shard, its (2T, width) outputs with the sides' updates in their rows, contiguous.

    Args:
        wide: (2T, out + ranks), its last axis contiguous. policy, reference: (R, out) of the same dtype, or None.
        widths: the shards' outputs; at most three, each a multiple of :func:`columns_per_block`.
    """
    count, outputs, block = len(wide), sum(widths), columns_per_block(widths)
    outs = [wide.new_empty(count, width) for width in widths]
    ends = [sum(widths[: place + 1]) for place in range(2)]
    block_rows = _ROWS if count <= _ROWS else _MORE_ROWS
    grid = (outputs // block, triton.cdiv(count, block_rows))
    _add_kernel[grid](
        wide, policy, reference, outs[0], outs[1 % len(outs)], outs[-1], count, wide.stride(0), outputs, *ends,
        len(widths), _rank(policy), _rank(reference), wide.dtype == torch.float32, block_rows, block,
    )  # fmt: skip
    return outs


@add_low_rank.register_fake
def _(wide: Tensor, policy: Tensor | None, reference: Tensor | None, widths: list[int]) -> list[Tensor]:
    return [wide.new_empty(wide.shape[0], width) for width in widths]


@add_low_rank.register_kernel("cpu")
def _added(wide: Tensor, policy: Tensor | None, reference: Tensor | None, widths: list[int]) -> list[Tensor]:
    outs = list(wide[:, : sum(widths)].float().split(widths, dim=1))
    start = sum(widths)
    for place, upper in enumerate((policy, reference)):
        if upper is None:
            continue
        for shard, b in enumerate(upper.float().split(widths, dim=1)):
            lower = wide[:, start : start + len(b)].float().clone()
            lower[1 - place :: 2] = 0
            outs[shard] = outs[shard] + lower @ b
            start += len(b)
    return [out.to(wide.dtype).contiguous() for out in outs]


@torch.library.custom_op("aad_plugin::gate_low_rank", mutates_args=())
def gate_low_rank(wide: Tensor, policy: Tensor | None, reference: Tensor | None) -> Tensor:
    """Return (2T, I): silu(gate) · up of a product whose two shards are gate and up, with the sides' updates.

    Args:
        wide: (2T, 2I + ranks). policy, reference: (R, 2I) of the same dtype, or None.
    """
    upper = policy if policy is not None else reference
    assert upper is not None
    count, width = len(wide), upper.shape[1] // 2
    out = wide.new_empty(count, width)
    block, block_rows = columns_per_block([width]), _ROWS if count <= _ROWS else _MORE_ROWS
    grid = (width // block, triton.cdiv(count, block_rows))
    _gate_kernel[grid](
        wide, policy, reference, out, count, wide.stride(0), width,
        _rank(policy), _rank(reference), wide.dtype == torch.float32, block_rows, block,
    )  # fmt: skip
    return out


@gate_low_rank.register_fake
def _(wide: Tensor, policy: Tensor | None, reference: Tensor | None) -> Tensor:
    upper = policy if policy is not None else reference
    assert upper is not None
    return wide.new_empty(wide.shape[0], upper.shape[1] // 2)


@gate_low_rank.register_kernel("cpu")
def _gated(wide: Tensor, policy: Tensor | None, reference: Tensor | None) -> Tensor:
    upper = policy if policy is not None else reference
    assert upper is not None
    gate, up = _added(wide, policy, reference, [upper.shape[1] // 2] * 2)
    return (torch.nn.functional.silu(gate.float()) * up.float()).to(wide.dtype)


def _rank(upper: Tensor | None) -> int:
    return 0 if upper is None else len(upper)
