"""What hosts ask a causal LM's configuration for, answered for a pair: sizes, lengths, special tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from aad_plugin.errors import ConfigError, VocabMismatch
from aad_plugin.pair.sides import Sides
from aad_plugin.pair.stopping import end_ids
from aad_plugin.texts.rendering import shortest_context


class AlignedPairConfig(PreTrainedConfig):
    """Configuration of a pair: the policy's own configuration plus the shared vocabulary size."""

    model_type = "aligned_pair"

    def __init__(self, policy_config: PreTrainedConfig | None = None, **kwargs: Any) -> None:
        self.policy_config = policy_config
        super().__init__(**kwargs)

    def get_text_config(self, decoder: Any = None, encoder: Any = None) -> PreTrainedConfig:
        """Return the policy's text configuration: the architecture that hosts size caches and lengths by."""
        return self.policy_config.get_text_config(decoder=decoder, encoder=encoder) if self.policy_config else self


def head_sizes(sides: Sides) -> dict[str, int]:
    """Return by role how many tokens a model's head scores; raises ConfigError for a head of another form."""
    models = sides.models()
    for model in models.values():
        if not hasattr(model.get_output_embeddings(), "weight"):
            raise ConfigError(
                f"{type(model).__name__} has no head with one row per token (several codebooks, or none): a pair decodes "
                "text, token by token"
            )
    return {str(role): model.get_output_embeddings().weight.shape[0] for role, model in models.items()}


def context_length(sides: Sides, others: Sequence[PreTrainedConfig] = ()) -> int | None:
    """Return the shortest context of all models, in tokens; None where no configuration tells.

    Args:
        others: configurations of models that read the texts besides.
    """
    return shortest_context([*(model.config for model in sides.models().values()), *others])


def bare_generation_config(policy: PreTrainedModel, tokenizer: Any, vocab_size: int) -> GenerationConfig:
    """Keep the policy's special tokens; its sampling defaults and penalties do not leak into a strategy.

    An answer also ends by the end token of the policy's tokenizer, as on vLLM and with lm-eval: an adapter's turns may end
    by another token than its base's generation_config names.

    Args:
        tokenizer: the policy's, or None. vocab_size: number of token ids that the pair decodes over.
    """
    given = copy.deepcopy(policy.generation_config)
    pad, ends = given.pad_token_id, given.eos_token_id
    if pad is not None and pad < 0:  # some checkpoints write −1 for none, which no embedding has
        pad = ends[0] if isinstance(ends, list) else ends
    own = getattr(tokenizer, "eos_token_id", None)
    if own is not None and own < vocab_size and own not in (known := end_ids(ends)):
        ends = [*known, own]
    return GenerationConfig(bos_token_id=given.bos_token_id, eos_token_id=ends, pad_token_id=pad)


def shared_vocab(sides: Sides, vocab_size: int | None) -> int:
    """Return the number of token ids that all sides share.

    Args:
        vocab_size: as it is known; None for heads of one size.
    Raises:
        VocabMismatch: the heads' sizes differ and nothing else is known, or one is smaller than the vocabulary.
    """
    heads = head_sizes(sides)
    smallest = min(heads.values())
    if vocab_size is None:
        if len(set(heads.values())) > 1:
            raise VocabMismatch(f"heads of different size ({heads}): pass vocab_size, the number of shared token ids")
        return smallest
    if vocab_size > smallest:
        raise VocabMismatch(f"the shared vocabulary has {vocab_size} tokens, but the heads have {heads}")
    return vocab_size
