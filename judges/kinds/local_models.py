"""What judges in this process share: checks of a model's options, padding, one forward, and a mark of the model's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.files.marks import checkpoint_commit, file_sha256, model_files, snapshot
from aad_plugin.judges.kinds.spelling import Piece, Speller
from aad_plugin.judges.sitting.judge import Judge
from aad_plugin.judges.sitting.sitting import Sitting
from aad_plugin.sources.known_options import safetensors_only
from aad_plugin.texts.rendering import known_context


class LocalJudge(Judge):
    """A judge that is a model in this process, which sees one answer at a time: no prompt, no price, nothing to swap."""

    both_orders = False
    template_hash: str = ""
    fingerprint: str = ""
    price = None
    in_process = True

    def prepare(self, sitting: Sitting) -> None:
        """Nothing to find out: it always answers in one way."""


def model_mark(dtype: str, *folders: str | Path | None) -> dict[str, Any]:
    """What tells a model from another of the same name: its dtype, and hashes of weights, configuration and tokenizer.

    Args:
        dtype: as asked for; rounding shapes a verdict, too.
        folders: of the model; an adapter and its base are two. Hub ids are no folders and leave no mark, see `hub_mark`.
    """
    marks = []
    for folder in folders:
        if folder is None or not Path(folder).is_dir():
            continue
        marks += [[path.name, file_sha256(path)] for path in model_files(Path(folder))]
    return {"dtype": dtype, "files": marks}


def hub_mark(*names: str | Path | None) -> dict[str, Any]:
    """What tells the files of hub ids from later ones of the same name: their commits; {} where all names are folders.

    Call it once the models are loaded: before, the hub's cache may hold no commit, or an older one.

    Args:
        names: of the model; an adapter and its base are two, see `base_of`.
    """
    hub = [str(name) for name in names if name is not None and not Path(name).exists()]
    commits = {name: commit for name in hub if (commit := checkpoint_commit(name)) is not None}
    return {"commits": commits} if commits else {}


def base_of(name: str) -> str | None:
    """The base that the configuration of an adapter, a folder or a hub id, names; None of what is no adapter."""
    folder = Path(name) if Path(name).is_dir() else snapshot(name)
    try:
        return json.loads((folder or Path(name)).joinpath("adapter_config.json").read_text())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError):
        return None


def marks_of_model(dtype: str, name: str) -> dict[str, Any]:
    """`model_mark` and `hub_mark` of a loaded model, and of its base where it is an adapter; both shape its verdicts."""
    base = base_of(name)
    return model_mark(dtype, name, base) | hub_mark(name, base)


def weight_options(name: str, use_safetensors: bool | None) -> dict[str, Any]:
    """Return ``from_pretrained``'s options that rule pickled weights out, unless ``use_safetensors`` is False.

    Raises:
        ConfigError: a folder holds its weights as pickles alone.
    """
    return safetensors_only(name, {} if use_safetensors is None else {"use_safetensors": use_safetensors})


def made_ready(model: Any, tokenizer: Any, device: str | None) -> Any:
    """Return the model in eval mode on its device, None being the GPU where there is one; both know how to pad."""
    import torch

    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def outputs_of(model: Any, speller: Speller, texts: Sequence[tuple[Piece, ...]]) -> Any:
    """Return (B, outputs) float32 logits of a sequence classification; a text beyond the context loses its beginning."""
    import torch

    # A chat template writes its own special tokens.
    own_marks = not speller.tokenizer.chat_template
    ids = [speller.ids(text, _room(model), own_marks=own_marks) for text in texts]
    batch = speller.padded(ids).to(model.device)
    with torch.inference_mode():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()


def _room(model: Any) -> int | None:
    """How many tokens a classification model reads at once: its context, or fewer where its table of positions begins
    behind a padding row, as RoBERTa's does."""
    import torch

    tables = [getattr(module, "position_embeddings", None) for module in model.modules()]
    rooms = [
        table.num_embeddings - table.padding_idx - 1
        for table in tables
        if isinstance(table, torch.nn.Embedding) and table.padding_idx is not None
    ]
    return min((room for room in (known_context(model.config), *rooms) if room), default=None)


def check_model_options(device: str | None, dtype: str, batch_size: int) -> None:
    """Refuse options no model can be loaded with.

    Raises:
        ConfigError: torch has no such device or dtype here, or a batch would be empty.
    """
    import torch

    if not (isinstance(batch_size, int) and batch_size >= 1):
        raise ConfigError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    if dtype != "auto" and not isinstance(getattr(torch, str(dtype), None), torch.dtype):
        raise ConfigError(f"dtype must be auto or a torch type such as float32 or bfloat16, got {dtype!r}")
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            why = str(error).partition("\n")[0][:200]
            raise ConfigError(
                f"device must be one torch can use here, such as cpu or cuda, got {device!r}: {why}"
            ) from error
