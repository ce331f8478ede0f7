"""What runs inside vLLM's workers beside the model: per-request strategies, read from each request's ``extra_args``.

``worker_extension_cls="aad_plugin.engine.worker.AADWorkerExtension"``; after the engine has started,
``collective_rpc("aad_attach")`` connects the model with the runner. vLLM's first model runner keeps its requests in the
order of the rows it asks scores for; the second one tells the model's own state (`aad_plugin.engine.model_state`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aad_plugin.engine.rows import FILTERED, Rows, constrained
from aad_plugin.settings import DecodingSettings


class AADWorkerExtension:
    """Methods for ``collective_rpc``; vLLM mixes them into its worker class."""

    model_runner: Any

    def aad_attach(self) -> bool:
        """Let requests choose their strategy; return whether this runner allows it, and holds a pair at all."""
        runner = self.model_runner
        if not hasattr(runner.get_model(), "rows"):
            return False
        if getattr(runner, "model_state", None) is not None:
            return hasattr(runner.model_state, "rows")
        if not hasattr(runner, "input_batch") or not hasattr(runner, "requests"):
            return False
        model = runner.get_model()  # runner.model may be a wrapper that replays CUDA graphs
        model.rows = _FirstRunnerRows(runner, model)
        return True

    def aad_emptied(self) -> int:
        """Return at how many steps later stages (a grammar, banned tokens) left a row no plausible token."""
        return self.model_runner.get_model().rows.emptied

    def aad_set(self, settings: dict[str, Any]) -> None:
        """Change the settings of requests that name none."""
        model = self.model_runner.get_model()
        model.default = model.default.override(**settings)


class _FirstRunnerRows(Rows):
    """Reads the batch that the runner keeps."""

    def __init__(self, runner: Any, model: Any) -> None:
        super().__init__(model)
        self.runner = runner
        self._last: tuple[Tensor, dict[str, tuple[int, int]]] | None = None  # scores; request -> row, tokens so far

    def __call__(self, number: int) -> list[DecodingSettings] | None:
        self._count_emptied()
        batch = self.runner.input_batch
        counts = [1 + len(drafts) for drafts in batch.spec_token_ids[: len(batch.req_ids)]]
        if sum(counts) != number:
            return None  # a profiling run: no requests yet
        found = []
        for name, rows in zip(batch.req_ids, counts, strict=True):
            parameters = self.runner.requests[name].sampling_params
            found += [self.settings(parameters.extra_args if parameters else None)] * rows
        return found

    def scored(self, scores: Tensor, settings: list[DecodingSettings]) -> None:
        ids = self.runner.input_batch.req_ids
        if len(ids) != len(scores):
            return  # drafts: nothing is counted
        requests = self.runner.requests
        watched = {
            name: (row, len(requests[name].output_token_ids))
            for row, name in enumerate(ids)
            if settings[row].strategy in FILTERED and constrained(requests[name].sampling_params)
        }
        self._last = (scores, watched) if watched else None

    def _count_emptied(self) -> None:
        """Count the step before, whose tokens are known by now: to the host, or with async scheduling to the device."""
        if self._last is None:
            return
        (scores, watched), self._last = self._last, None
        sampled = getattr(self.runner.input_batch, "prev_sampled_token_ids", None)
        places = getattr(self.runner.input_batch, "prev_req_id_to_index", None) or {}
        rows, tokens = [], []
        for name, (row, before) in watched.items():
            if sampled is not None:
                if name in places:
                    rows.append(row)
                    tokens.append(places[name])
            elif name in self.runner.requests:
                found = self.runner.requests[name].output_token_ids
                if len(found) == before + 1:
                    rows.append(row)
                    tokens.append(found[-1])
        if rows:
            chosen = torch.tensor(tokens)
            self.count(scores, rows, chosen if sampled is None else sampled[chosen.to(sampled.device), 0].long())
