"""Which draft a user means, and whether a pair can use it. Knows nothing of guessing (`drafts.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from aad_plugin.cut_draft import ACCOUNT, read_cut_draft
from aad_plugin.drafts import Draft
from aad_plugin.errors import ConfigError, VocabMismatch, first_line
from aad_plugin.options import safetensors_only
from aad_plugin.provenance import weights_mark
from aad_plugin.vocabulary import shared_vocab_size

if TYPE_CHECKING:
    from aad_plugin.pair import AlignedPair

__all__ = ["load_draft"]


def load_draft(name: str, pair: AlignedPair) -> Draft:
    """Return the draft that ``draft_model=<name>`` means for a pair, in the policy's dtype and on its device.

    Args:
        name: checkpoint, or the folder of a draft that was cut out of this pair's base.
    Raises:
        ConfigError: it cannot be read, or the pair's cache cannot take back tokens.
        VocabMismatch: its token ids are others than the pair's.
    """
    if not isinstance(name, str):
        raise ConfigError(f"draft_model names a model, got {name!r} (for example draft_model=path/of/a/small/model)")
    pair.refuse_drafts("draft_model")
    folder = Path(name).expanduser()
    ids: torch.Tensor | None = None
    if (folder / ACCOUNT).is_file():
        with pair.sides.role("reference") as base:
            model, ids = read_cut_draft(folder, base)
    else:
        model = _load(name, pair.sides.policy)
        _check_vocabulary(name, model, pair)
    return Draft(model, vocab_size=pair.vocab_size, name=name, mark=weights_mark(model), ids=ids)


def _load(name: str, policy: Any) -> PreTrainedModel:
    try:
        options = safetensors_only(name, {"dtype": policy.dtype})
        return AutoModelForCausalLM.from_pretrained(name, **options).to(policy.device).eval()
    except ConfigError:
        raise
    except (ImportError, OSError, ValueError, TypeError, RuntimeError) as e:
        raise ConfigError(f"cannot load draft_model={name!r}: {first_line(e)}") from e


def _check_vocabulary(name: str, model: PreTrainedModel, pair: AlignedPair) -> None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (ImportError, OSError, ValueError) as e:
        raise ConfigError(f"no tokenizer at draft_model={name!r}: {first_line(e)}") from e
    size = model.get_output_embeddings().weight.shape[0]
    try:
        shared = shared_vocab_size(pair.tokenizer, tokenizer) if pair.tokenizer is not None else pair.vocab_size
    except VocabMismatch as e:
        raise VocabMismatch(
            f"draft_model={name!r} has other token ids than the pair: a draft guesses in the pair's own tokens, so take a "
            "small model of the same family"
        ) from e
    if size < shared:
        raise VocabMismatch(f"draft_model={name!r} has a head of {size} rows, the pair {shared} tokens")
