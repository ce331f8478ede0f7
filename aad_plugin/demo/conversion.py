"""From GGUF, or a hub snapshot, to the Hugging Face folder that the demo pair's base model is loaded from.

transformers reads a GGUF, but refuses to save the model it made of it, and loses three things on the way: the
splitting of digits in the tokenizer, the context length in its settings, the exact epsilon of the norms. They are put
back here.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from aad_plugin.errors import AssetError

CONTEXT_LENGTH = 8192
RMS_NORM_EPS = 1e-5
SPECIAL_TOKENS = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}


def convert_gguf(gguf: Path, out: Path, *, quiet: bool = False) -> None:
    """Write a SmolLM2 GGUF as config, generation config, tokenizer and bf16 safetensors into the new folder `out`.

    Raises:
        AssetError: the GGUF cannot be read, or is not the model this was written for.
    """
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    with _progress(quiet):
        try:
            loaded = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),  # else weights stay packed where a kernel is found
            )
        except (ValueError, KeyError, OSError, ImportError) as e:
            raise AssetError(f"{gguf.name} cannot be read as GGUF: {e}") from e
        _save_fresh_copy(loaded, out)
        _tokenizer(gguf).save_pretrained(out)


def convert_snapshot(snapshot: Path, out: Path) -> None:
    """Write a hub snapshot into `out` in the form `convert_gguf` gives; raises `AssetError` if it is unreadable."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(snapshot, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(snapshot)
    except (ValueError, KeyError, OSError) as e:
        raise AssetError(f"the hub snapshot {snapshot} cannot be read: {e}") from e
    _save_fresh_copy(model, out)
    _check_tokenizer(tokenizer)
    tokenizer.save_pretrained(out)


def _save_fresh_copy(loaded, out: Path) -> None:
    """Save `loaded` through a new model of its class: a GGUF-loaded one refuses save_pretrained (transformers 5.23)."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    dropped = ("quantization_config", "_model_name_or_path", "_name_or_path", "dtype", "architectures")
    settings = {k: v for k, v in loaded.config.to_dict().items() if k not in dropped}
    config = LlamaConfig(**{**settings, "rms_norm_eps": RMS_NORM_EPS, "max_position_embeddings": CONTEXT_LENGTH})
    state = loaded.state_dict()
    if kinds := {v.dtype for v in state.values()} - {torch.bfloat16}:
        raise AssetError(f"expected bfloat16 weights after conversion, got {sorted(map(str, kinds))}")
    fresh = LlamaForCausalLM(config).to(torch.bfloat16)
    fresh.load_state_dict(state, strict=True)
    fresh.tie_weights()
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    fresh.generation_config = GenerationConfig(**ends)
    fresh.save_pretrained(out)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes 0600, and a shared cache has other readers


def _tokenizer(gguf: Path):
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)]
    )
    tokenizer.model_max_length = CONTEXT_LENGTH
    tokenizer.init_kwargs = {
        k: v for k, v in tokenizer.init_kwargs.items() if k not in ("is_local", "local_files_only")
    }
    _check_tokenizer(tokenizer)
    return tokenizer


def _check_tokenizer(tokenizer) -> None:
    found = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    if found != SPECIAL_TOKENS or tokenizer.eos_token != "<|im_end|>" or not tokenizer.chat_template:
        raise AssetError(
            f"expected SmolLM2's tokenizer with {SPECIAL_TOKENS}, eos <|im_end|> and a chat template, "
            f"got {found}, eos {tokenizer.eos_token}, template {'present' if tokenizer.chat_template else 'absent'}"
        )


@contextlib.contextmanager
def _progress(quiet: bool):
    """Silence transformers' own bars and notes while `quiet`, and put its settings back afterwards."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    if quiet:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
