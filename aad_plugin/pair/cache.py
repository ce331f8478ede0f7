"""Key/value caches of a pair, kept in step.

Owns delegation (whatever a host does to the cache of one causal LM, such as reordering for beams, cropping rejected
drafts or resetting, happens to every cache of the pair) and the tokens a late reference has not read yet. Knows nothing
of scores or strategies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from aad_plugin.pair.multimodal import batch_axis


class PairCache(Cache):
    """The caches of several sides behind the interface of one.

    Args:
        caches: one per side, the policy's first; or a single one of S · B rows, side after side, for one base model that
            serves S sides through adapters.
        sides: S; None for as many as there are caches.
    """

    def __init__(self, *caches: Cache, sides: int | None = None) -> None:
        # The base constructor would build layers of its own; every method that reads them is delegated below.
        self.caches = caches
        self.num_sides = len(caches) if sides is None else sides
        self._unread: dict[str, Tensor] = {}

    def put_off(self, **inputs: Tensor | None) -> None:
        """Remember what sides after the policy are to read later: (B, T) input_ids and, where given, position_ids,
        (B, T) or (A, B, T)."""
        for name, value in inputs.items():
            if value is not None:
                earlier = self._unread.get(name)
                self._unread[name] = value if earlier is None else torch.cat([earlier, value], dim=-1)

    def catch_up(self) -> dict[str, Tensor]:
        """Return, and forget, everything that was put off: the next inputs of sides after the policy."""
        unread, self._unread = self._unread, {}
        return unread

    def _change_unread(self, change: Callable[[Tensor], Tensor]) -> None:
        self._unread = {name: change(value) for name, value in self._unread.items()}

    @property
    def is_shared(self) -> bool:
        """Whether one cache holds the rows of all sides."""
        return len(self.caches) == 1

    @property
    def layers(self) -> list:
        return self.caches[0].layers

    def __len__(self) -> int:
        return len(self.caches[0])

    def __repr__(self) -> str:
        return f"PairCache({', '.join(map(repr, self.caches))})"

    def update(self, *args, **kwargs):
        raise TypeError("a PairCache is handed to AlignedPair.forward, which gives each model its own cache")

    # What a model's layers do to their own cache.
    update_conv_state = update_recurrent_state = update_indexer = get_conv_state = get_recurrent_state = update
    early_initialization = prefetch = offload = update

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.caches[0].get_seq_length(layer_idx)

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return min(cache.get_max_length(layer_idx) for cache in self.caches)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.caches[0].get_mask_sizes(query_length, layer_idx)

    def reset(self) -> None:
        self._unread = {}
        for cache in self.caches:
            cache.reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens; those the reference has not read yet are in no cache of its own."""
        removed = abs(tokens_to_remove)
        unread = self._unread["input_ids"].shape[1] if self._unread else 0
        dropped = min(unread, removed)
        kept = unread - dropped
        self._unread = {name: value[..., :kept] for name, value in self._unread.items()} if kept else {}
        self.caches[0].crop(-removed)
        for cache in self.caches[1:]:
            cache.crop(dropped - removed)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self._change_unread(lambda value: value.index_select(batch_axis(value), beam_idx.to(value.device)))
        for cache in self.caches:
            # As many indices as rows; a purely recurrent cache has no keys whose rows could be counted.
            cache.reorder_cache(self._of_all(beam_idx, len(beam_idx)))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._change_unread(lambda value: value.index_select(batch_axis(value), indices.to(value.device)))
        for cache in self.caches:
            cache.batch_select_indices(self._rows(indices))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._change_unread(lambda value: value.repeat_interleave(repeats, batch_axis(value)))
        for cache in self.caches:
            cache.batch_repeat_interleave(repeats)

    def activate_past_recording(self) -> None:
        for cache in self.caches:
            cache.activate_past_recording()

    @property
    def is_compileable(self) -> bool:
        # Compiling would make the host prepare one 4-D mask from one config for both models; each prepares its own.
        return False

    @property
    def is_croppable(self) -> bool:
        return all(cache.is_croppable for cache in self.caches)

    @property
    def is_initialized(self) -> bool:
        return all(cache.is_initialized for cache in self.caches)

    @property
    def is_sliding(self) -> list[bool]:
        return self.caches[0].is_sliding

    def _rows(self, indices: Tensor) -> Tensor:
        """Extend (N,) row indices to the rows of all sides in a shared cache."""
        # Cache.batch_size is unknown (-1) for dynamic layers, so the rows are counted.
        rows = next((len(layer.keys) for layer in self.layers if getattr(layer, "keys", None) is not None), 0)
        return self._of_all(indices, rows // self.num_sides)

    def _of_all(self, indices: Tensor, batch: int) -> Tensor:
        """Return (S · N,) indices into a shared cache, whose sides have ``batch`` rows each; else the (N,) as they are."""
        return torch.cat([indices + side * batch for side in range(self.num_sides)]) if self.is_shared else indices


def can_repeat(cache: Cache | None) -> bool:
    """Whether the rows of a cache can be repeated: it holds keys and values alone, as many as were read."""
    if isinstance(cache, PairCache):
        return all(map(can_repeat, cache.caches))
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return isinstance(cache, Cache) and all(type(layer) in plain for layer in cache.layers)
