"""Which draft a user means, and whether a pair can use it. Knows nothing of guessing (`drafts.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from aad_plugin.errors import ConfigError, VocabMismatch, first_line
from aad_plugin.files.marks import weights_mark
from aad_plugin.pair.cut_draft import ACCOUNT, read_cut_draft
from aad_plugin.pair.drafts import Draft
from aad_plugin.sources.known_options import safetensors_only
from aad_plugin.sources.vocabulary import shared_vocab_size
from aad_plugin.sources.whole_weights import load_whole


def load_draft(name: str, sides: Any, tokenizer: Any, vocab_size: int) -> Draft:
    """Return the draft that ``draft_model=<name>`` means for a pair, in the policy's dtype and on its device.

    Args:
        name: checkpoint, or the folder of a draft that was cut out of this pair's base.
        sides, tokenizer, vocab_size: the pair's.
    Raises:
        ConfigError: it cannot be read.
        VocabMismatch: its token ids are others than the pair's.
    """
    if not isinstance(name, str):
        raise ConfigError(f"draft_model names a model, got {name!r} (for example draft_model=path/of/a/small/model)")
    folder = Path(name).expanduser()
    ids: torch.Tensor | None = None
    if (folder / ACCOUNT).is_file():
        with sides.role("reference") as base:
            model, ids = read_cut_draft(folder, base)
    else:
        model = _load(name, sides.policy)
        _check_vocabulary(name, model, tokenizer, vocab_size)
    return Draft(model, vocab_size=vocab_size, name=name, mark=weights_mark(model), ids=ids)


def _load(name: str, policy: Any) -> PreTrainedModel:
    try:
        options = safetensors_only(name, {"dtype": policy.dtype})
        return load_whole(AutoModelForCausalLM, name, **options).to(policy.device).eval()
    except ConfigError:
        raise
    except (ImportError, OSError, ValueError, TypeError, RuntimeError) as e:
        raise ConfigError(f"cannot load draft_model={name!r}: {first_line(e)}") from e


def _check_vocabulary(name: str, model: PreTrainedModel, own: Any, vocab_size: int) -> None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (ImportError, OSError, ValueError) as e:
        raise ConfigError(f"no tokenizer at draft_model={name!r}: {first_line(e)}") from e
    size = model.get_output_embeddings().weight.shape[0]
    try:
        shared = shared_vocab_size(own, tokenizer) if own is not None else vocab_size
    except VocabMismatch as e:
        raise VocabMismatch(
            f"draft_model={name!r} has other token ids than the pair: a draft guesses in the pair's own tokens, so take a "
            "small model of the same family"
        ) from e
    if size < shared:
        raise VocabMismatch(f"draft_model={name!r} has a head of {size} rows, the pair {shared} tokens")
