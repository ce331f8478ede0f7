"""The pair under vLLM's second model runner, which tells a model's own state of every request and batch.

Imported only by that runner: it needs Triton.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from aad_plugin.engine.rows import FILTERED, Rows, constrained
from aad_plugin.settings import DecodingSettings


class PairState(DefaultModelState):
    """vLLM's state of a text model that keeps each request's strategy besides. Args as vLLM gives them."""

    def __init__(self, vllm_config: Any, model: Any, *rest: Any) -> None:
        super().__init__(vllm_config, model, *rest)
        self.rows = model.rows = _SecondRunnerRows(model)

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """Note what the request asks for."""
        super().add_request(req_index, new_req_data)
        self.rows.add(new_req_data.req_id, new_req_data.sampling_params)

    def remove_request(self, req_id: str) -> None:
        """Forget a request."""
        super().remove_request(req_id)
        self.rows.remove(req_id)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        """Note the order of the batch; scores are asked for after the forward pass that follows."""
        self.rows.ids = list(input_batch.req_ids)
        self.rows.counts = np.diff(input_batch.cu_num_logits_np).tolist()
        self._last_sampled = req_states.last_sampled_tokens
        return super().prepare_inputs(input_batch, req_states)

    def postprocess_state(self, idx_mapping: Tensor, num_sampled: Tensor, *rest: Any, **options: Any) -> None:
        """Count where the step's tokens were implausible, where a request could make them so."""
        super().postprocess_state(idx_mapping, num_sampled, *rest, **options)
        self.rows.chosen(self._last_sampled, idx_mapping, num_sampled)


class _SecondRunnerRows(Rows):
    """Is told of requests and batches by `PairState`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.parameters: dict[str, Any] = {}  # request -> its sampling parameters
        self.constrained: set[str] = set()
        self.known: dict[
            str, tuple[DecodingSettings, DecodingSettings]
        ] = {}  # request -> the default then, its settings
        self.ids: list[str] = []
        self.counts: list[int] = []  # rows of each: one, and one for each of its drafts
        self._last: tuple[Tensor, list[int]] | None = None

    def add(self, name: str, parameters: Any) -> None:
        """A request begins. parameters: its sampling parameters."""
        self.known.pop(name, None)
        self.parameters[name] = parameters
        if constrained(parameters):
            self.constrained.add(name)

    def remove(self, name: str) -> None:
        """A request ends."""
        self.parameters.pop(name, None)
        self.known.pop(name, None)
        self.constrained.discard(name)

    def __call__(self, number: int) -> list[DecodingSettings] | None:
        if sum(self.counts) != number:
            return None  # a profiling run
        return [one for name, rows in zip(self.ids, self.counts, strict=True) for one in [self._of(name)] * rows]

    def _of(self, name: str) -> DecodingSettings:
        """Settings are read once per request: there may be hundreds of them at every step."""
        default, found = self.known.get(name, (None, None))
        if found is None or default is not self.model.default:
            parameters = self.parameters.get(name)
            found = self.settings(parameters.extra_args if parameters else None)
            self.known[name] = (self.model.default, found)
        return found

    def scored(self, scores: Tensor, settings: list[DecodingSettings]) -> None:
        self._last = None
        if self.constrained and len(self.ids) == len(scores):  # with drafts, nothing is counted
            watched = [
                row
                for row, name in enumerate(self.ids)
                if name in self.constrained and settings[row].strategy in FILTERED
            ]
            self._last = (scores, watched) if watched else None

    def chosen(self, last_sampled: Tensor, slots: Tensor, number: Tensor) -> None:
        """Hear of a step's tokens.

        Args:
            last_sampled: (S, 1) int64, each slot's last token. slots: (R,) int, each row's slot.
            number: (R,) int, how many tokens each row got: none in the middle of a prompt.
        """
        if self._last is None:
            return
        (scores, rows), self._last = self._last, None
        place = torch.tensor(rows, device=slots.device)
        self.count(scores, rows, last_sampled[slots[place].long(), 0], number[place] > 0)
