"""What a pair takes of memory, read off configurations."""

from __future__ import annotations

from typing import Any


def cache_bytes_per_token(config: Any, value_bytes: int) -> int | None:
    """Return the bytes of keys and values that one token takes in one model's cache, ``value_bytes`` per number; None
    where the configuration does not tell: no attention heads, or layers of different shape."""
    text = config.get_text_config()
    try:
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return 2 * text.num_hidden_layers * heads * size * value_bytes
    except Exception:  # a configuration raises errors of its own for what differs from layer to layer
        return None
