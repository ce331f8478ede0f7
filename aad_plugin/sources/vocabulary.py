"""Do two tokenizers mean the same by every id? Owns that one check; knows nothing of models."""

from __future__ import annotations

from typing import Any

from aad_plugin.errors import VocabMismatch

_PAIR = ("policy", "reference")


def shared_vocab_size(policy_tokenizer: Any, reference_tokenizer: Any, names: tuple[str, str] = _PAIR) -> int:
    """Return the number of shared token ids: the largest id plus one. Heads may be padded beyond it.

    Args:
        policy_tokenizer, reference_tokenizer: tokenizers with ``get_vocab() -> {token: id}``; may be one object.
        names: theirs, for the message.
    Raises:
        VocabMismatch: the maps differ; names how many tokens and the first of them.
    """
    policy = policy_tokenizer.get_vocab()
    if reference_tokenizer is not policy_tokenizer:
        reference = reference_tokenizer.get_vocab()
        differing = sorted(
            token for token in policy.keys() | reference.keys() if policy.get(token) != reference.get(token)
        )
        if differing:
            token = differing[0]
            one, other = names
            added = all(token in policy and token not in reference for token in differing)
            remedy = (
                f"Take a {other} with the tokenizer of the {one}"
                if names != _PAIR
                else "Tokens were only added to the policy's: pass tokenizer=<the reference's>, which both know"
                if added and min(policy[token] for token in differing) > max(reference.values())
                else "A pair needs the very reference its policy was tuned from, with the same tokenizer"
            )
            raise VocabMismatch(
                f"{one} and {other} must share one token→id map; {len(differing)} tokens differ, first {token!r}: "
                f"{one} {policy.get(token)}, {other} {reference.get(token)}. {remedy}"
            )
    return max(policy.values()) + 1
