"""What vLLM reads of a pair made of adapters: the base and plain LoRAs as they are, or full checkpoints merged once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from aad_plugin.errors import ConfigError, first_line
from aad_plugin.files.cache import cache_dir
from aad_plugin.files.marks import checkpoint_mark, newest_mark
from aad_plugin.files.whole import making_folder
from aad_plugin.sources.adapter_base import check_hub_adapter
from aad_plugin.sources.adapter_files import tokenizer_beside
from aad_plugin.sources.attached import attached
from aad_plugin.sources.known_options import refuse_pickled_adapter, safetensors_only, trusting
from aad_plugin.sources.parts import PairSource
from aad_plugin.sources.processors import load_processor
from aad_plugin.sources.whole_weights import load_merging
from aad_plugin.texts.rendering import borrow_template

logger = logging.getLogger(__name__)

# Bases whose two sides one vLLM model can hold: dense, plain attention, read by vLLM's own class with LoRA. Llama and Qwen3
# are in the tests; the other two are the same classes with a bias or another name.
SHARED_TYPES = ("llama", "mistral", "qwen2", "qwen3")
# What makes an adapter more than plain LoRA, as vLLM's own reader of adapters sees it.
_MORE_THAN_LORA = (
    "use_dora", "modules_to_save", "lora_bias", "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora",
)  # fmt: skip
_KEEPS_BASE = (True, False, "gaussian", "orthogonal", "eva")  # other ways to initialise change the base's weights
_MERGED = 1e-3  # a merge in float32 differs from the adapter's own logits by rounding
_MERGED_16 = 0.2  # in 16 bit by more; another model by about the spread
_PLAIN = (".lora_A.weight", ".lora_B.weight")


def refuse_pickles(source: PairSource) -> None:
    """Raise ConfigError for a part of a pair whose weights are pickles alone: vLLM would read them."""
    guides = [model for guide in source.guides for model in (guide.model, guide.reference) if model is not None]
    for part in (source.policy, source.reference, source.base, *(one.base for one in guides)):
        if part:
            safetensors_only(part, {}, "load_format=pt")
    for guide in guides:
        if guide.base is None:
            safetensors_only(guide.path, {"revision": guide.revision} if guide.revision else {}, "load_format=pt")
    for adapter in (source.adapter, source.reference_adapter, *(one.path for one in guides if one.base)):
        if adapter:
            refuse_pickled_adapter(Path(adapter).expanduser(), "load_format=pt")


def can_share_base(source: PairSource) -> bool:
    """Whether both sides of a pair are a base with plain LoRAs on linear layers, which one vLLM model can hold.

    Anything else (other architectures, DoRA, trained embeddings or heads …) is merged; an adapter that is not in a folder
    here, too.
    """
    from transformers import AutoConfig

    if not source.shares_base:
        return False
    try:
        config = AutoConfig.from_pretrained(source.base)
    except (OSError, ValueError):
        return False
    if config.model_type not in SHARED_TYPES or getattr(config, "quantization_config", None):
        return False
    adapters = [adapter for adapter in (source.adapter, source.reference_adapter) if adapter]
    return all(is_plain_lora(Path(adapter).expanduser()) for adapter in adapters)


def is_plain_lora(adapter: Path) -> bool:
    """Whether a folder here is LoRA on linear layers and nothing else, neither head nor embeddings."""
    from safetensors import safe_open

    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8-sig"))
        with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
            names = list(file.keys())
    except (OSError, ValueError):
        return False
    if any(config.get(name) for name in _MORE_THAN_LORA) or config.get("bias", "none") != "none":
        return False
    if config.get("init_lora_weights", True) not in _KEEPS_BASE:
        return False
    return all(name.endswith(_PLAIN) and "lm_head" not in name and "embed" not in name for name in names)


def with_template(source: PairSource, trust_remote_code: bool = False) -> str:
    """Return where the tokenizer of a shared base is: the adapter's own or the base's, or, where only the base has a chat
    template, a copy of the adapter's that has it, too."""
    from transformers import AutoTokenizer

    home = source.tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(home, **trusting(trust_remote_code))
    except (ImportError, OSError, ValueError) as e:
        raise ConfigError(f"no tokenizer at {home!r}: {first_line(e)}") from e
    had = getattr(tokenizer, "chat_template", None)
    borrow_template(tokenizer, source.adapter, source.base)
    if getattr(tokenizer, "chat_template", None) == had:
        return home
    mark = [checkpoint_mark(home), tokenizer.chat_template]
    target = cache_dir() / "tokenizers" / hashlib.sha256(json.dumps(mark).encode()).hexdigest()[:16]
    with FileLock(_lock(target)):
        if not target.is_dir():
            with making_folder(target) as part:
                tokenizer.save_pretrained(part)
    return str(target)


def _lock(target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    return f"{target}.lock"


def full_checkpoints(source: PairSource, dtype: str = "auto") -> tuple[str, str]:
    """Return (policy, reference) as paths or ids of full checkpoints; merges adapters on first use.

    Args:
        source: the pair's parts. dtype: of the merged weights; "auto" is the base's own. Merging is done in float32.
    Raises:
        ConfigError: an adapter does not fit its base.
    """
    if not source.shares_base:
        return str(source.policy), str(source.reference)
    base = str(source.base or source.reference)
    policy = merged_checkpoint(base, str(source.adapter), dtype)
    reference = merged_checkpoint(base, source.reference_adapter, dtype) if source.reference_adapter else base
    return str(policy), str(reference)


def merged_checkpoint(base: str, adapter: str, dtype: str) -> Path:
    """Return the folder of base + adapter as one checkpoint in the cache on disk; merges on first use.

    Args:
        dtype: of the merged weights; "auto" is the base's own. Merging is done in float32.
    Raises:
        ConfigError: the adapter does not fit the base.
    """
    mark = [newest_mark(base), newest_mark(adapter), base, adapter, dtype]
    name = hashlib.sha256(json.dumps(mark).encode()).hexdigest()[:16]
    target = cache_dir() / "merged" / name
    return merge_adapter(base, adapter, dtype, target)


def merge_adapter(base: str, adapter: str, dtype: str, target: Path) -> Path:
    """Write base + adapter as one checkpoint with its tokenizer, unless it is there; whole or not at all.

    Args:
        dtype: of the written weights; "auto" is the base's own. Merging is done in float32.
    Raises:
        ConfigError: the adapter does not fit the base, or the disk does not take it.
    """
    with FileLock(_lock(target)):
        if not target.is_dir():
            logger.info("merging %s into %s", adapter, base)
            _merge(base, adapter, dtype, target)
    return target


def untie(model: Any) -> None:
    """Give the head weights of its own: what an adapter adds to a head must not enter the embeddings, nor the reverse."""
    import torch

    if is_tied(model):
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False


def _logits(model: Any, ids: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def merged_model(load: Callable[[], Any], adapter: str, check: Callable[[Any], None] | None = None) -> Any:
    """Return a base with an adapter merged into its weights, whose logits are those of the adapter on that base.

    A head that shares the embeddings' weights gets its own, since what an adapter adds to one of them is nothing the other
    has; where PEFT adds to both, the weights stay shared.

    Args:
        load: loads the base anew. adapter: a folder or hub id. check: is given the base with the adapter before it merges.
    Raises:
        ValueError: it changes nothing, cannot be merged, or no merge gives its logits. Else as PEFT's.
    """
    import torch

    model = load().eval()
    vocab_size = model.config.get_text_config().vocab_size
    alone_on = torch.arange(8, device=model.device)[None] % vocab_size
    alone = _logits(model, alone_on)
    shares = is_tied(model)
    adapted = attached(model, adapter).eval()
    if check is not None:
        check(adapted)
    config = adapted.peft_config["default"]
    if not hasattr(adapted, "merge_and_unload") or not hasattr(adapted.base_model, "merge_and_unload"):
        raise ValueError(f"{config.peft_type} cannot be merged into weights")
    ids = torch.cat([alone_on, _trained_tokens(config, vocab_size, model.device)], dim=1)
    wanted = _logits(adapted, ids)
    if torch.equal(alone, wanted[:, : alone.shape[1]]) and ids.shape[1] == alone.shape[1]:
        raise ValueError("it changes nothing: its tensors match no layer of this base")
    # In 16 bit, weights that are merged are rounded once more.
    limit = _MERGED if model.dtype == torch.float32 else _MERGED_16
    apart = float("inf")
    for own_head in (True, False) if shares else (False,):
        if shares:
            model = load().eval()
            if own_head:
                untie(model)
            adapted = attached(model, adapter).eval()
        merged = adapted.merge_and_unload()
        apart = min(apart, float((_logits(merged, ids) - wanted).abs().max() / wanted.std()))
        if apart < limit:
            return merged
    raise ValueError(f"merged, its logits differ by {apart:.2g} of their spread from the adapter's own")


def _trained_tokens(config: Any, vocab_size: int, device: Any) -> Any:
    """(1, N) ids whose embeddings an adapter holds whole."""
    import torch

    given = getattr(config, "trainable_token_indices", None) or []
    rows = [row for named in given.values() for row in named] if isinstance(given, dict) else list(given)
    return torch.tensor([[row for row in rows if row < vocab_size][:64]], dtype=torch.long, device=device).reshape(
        1, -1
    )


def save_texts(path: str, tokenizer: Any, folder: Path) -> None:
    """Write what turns prompts into a checkpoint's inputs beside weights that were made of it.

    Args:
        path: the checkpoint. tokenizer: written with it. folder: of the new weights.
    """
    from transformers import AutoConfig

    tokenizer.save_pretrained(folder)
    processor = load_processor(path, AutoConfig.from_pretrained(path))
    if processor is not None:
        processor.tokenizer = tokenizer
        processor.save_pretrained(folder)


def is_tied(model: Any) -> bool:
    """Whether a model's head and its embeddings are one tensor."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight is embeddings.weight


def _merge(base: str, adapter: str, dtype: str, target: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoTokenizer

    check_hub_adapter(adapter, base)
    try:
        own = getattr(AutoConfig.from_pretrained(base), "dtype", None) or torch.float32
        merged = merged_model(lambda: load_merging(base), adapter)
    except ConfigError:
        raise
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as e:
        reason = " ".join(str(e).split())[:300]
        raise ConfigError(f"adapter {adapter!r} does not fit base {base!r}: {reason}") from e
    try:
        with making_folder(target) as part:
            merged.to(own if dtype == "auto" else getattr(torch, dtype)).save_pretrained(part)
            home = tokenizer_beside(adapter) or base
            tokenizer = AutoTokenizer.from_pretrained(home)
            borrow_template(tokenizer, adapter, base)
            save_texts(base, tokenizer, part)
    except (OSError, SafetensorError) as e:
        raise ConfigError(f"cannot write {target}: {e}") from e
