"""What a result must say about the pair that made it: parts, revisions, dtypes, a mark of the weights, versions."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from aad_plugin.files.marks import text_mark, weights_mark
from aad_plugin.files.versions import versions
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.rope_switch import rope_switch
from aad_plugin.pair.stopping import end_ids
from aad_plugin.sources.processors import processor_mark


def describe(pair: AlignedPair) -> dict[str, Any]:
    """Return a JSON-able account of a pair."""
    models = pair.sides.models()
    source = pair.source
    return {
        "pair": source.preset if source is not None else None,
        "parts": source.parts() if source is not None else {r: m.name_or_path for r, m in models.items()},
        "reference_proof": source.proof if source is not None else "given",
        "settings": dataclasses.asdict(pair.settings),
        "dtype": {role: str(model.dtype) for role, model in models.items()},
        "head_dtype": {role: _head_dtype(model) for role, model in models.items()},
        "choice_head": "float32" if pair.sums_in_float32 else "as the head",
        "device": {role: model.device.type for role, model in models.items()},
        "attention": {role: getattr(model.config, "_attn_implementation", None) for role, model in models.items()},
        "config": {role: text_mark(model.config.to_json_string()) for role, model in models.items()},
        "revision": {role: getattr(model.config, "_commit_hash", None) for role, model in models.items()},
        "policy_alone": "merged" if pair.sides.can_merge else "as given",
        "path": pair.proof.path if pair.proof else "not proven",
        "weights": weights_mark(pair),
        "versions": versions(),
        **({"guides": pair.guides.accounts} if pair.guides.members else {}),
        **({"processor": processor_mark(pair.processor)} if pair.processor is not None else {}),
        **({"chat_template_args": pair.chat_template_args} if pair.chat_template_args else {}),
        **_end_tokens(pair),
        **({"rope_switches": switches, "picked": "as drawn"} if (switches := _rope_switches(pair)) else {}),
        **({"draft": pair.draft.account()} if pair.draft is not None else {}),
    }


def _end_tokens(pair: AlignedPair) -> dict[str, list[int]]:
    """The end tokens by which answers end, where the policy's generation_config, or its tokenizer, names others than its
    configuration."""
    own, ends = pair.sides.policy.config.get_text_config(), pair.generation_config.eos_token_id
    found, stated = (sorted(end_ids(one)) for one in (ends, getattr(own, "eos_token_id", None)))
    return {} if found == stated else {"end_tokens": found}


def _rope_switches(pair: AlignedPair) -> dict[str, int]:
    """Where the models' rotary factors change with the length of a text; batches across it were read wrongly before,
    and so was what best_of_n picks from."""
    found = {role: rope_switch(model.config) for role, model in pair.sides.models().items()}
    return {role: switch for role, switch in found.items() if switch is not None}


def _head_dtype(model: torch.nn.Module) -> str:
    head = model.get_output_embeddings()  # type: ignore[operator]
    return str(getattr(getattr(head, "weight", None), "dtype", None))
