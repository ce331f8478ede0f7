"""Ask a pair outside of lm-eval's tasks: its lm-eval model on transformers or on vLLM, called directly.

Owns loading by engine, rendering of a prompt, the check that it fits, and one call per setting. What is kept of the
answers is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.files.marks import model_files_mark
from aad_plugin.harness.answer_store import Stored, is_truncated
from aad_plugin.sources.arguments import take_source
from aad_plugin.texts.messages import digest
from aad_plugin.texts.rendering import chat_template_of, known_context, without_template

ENGINES = ("hf", "vllm")
_ELSEWHERE = ("answers_dir", "batch_size", "device", "token", "proxies")  # where and how fast, not what; no secrets
_MODELS = ("guide", "guide_reference", "draft_model", "tokenizer", "picker")  # options that name further models
_ALIASES = {"transformers": "hf"}


def check_engine(engine: str) -> str:
    """Return the engine's short name ("hf" or "vllm"; "transformers" is "hf").

    Raises:
        ConfigError: another word. BackendMissing: vLLM is not installed.
    """
    name = _ALIASES.get(engine, engine)
    if name not in ENGINES:
        raise ConfigError(f"engine must be hf or vllm, got {engine!r}{nearest(engine, [*ENGINES, *_ALIASES])}")
    if name == "vllm":
        from aad_plugin.engine.options import check_vllm

        check_vllm()
    return name


def load_model(engine: str, arguments: Mapping[str, Any], *, sees: bool = False) -> Any:
    """Load a pair as :class:`AADLM`, :class:`AADMultimodalLM` or :class:`AADVLLM`; minutes for large weights.

    Args:
        engine: from `check_engine`. arguments: as model_args of ``--model aad`` or ``--model aad-vllm``.
        sees: whether prompts show pictures.
    Returns:
        the model, which adds no special tokens to what its chat template has rendered, as `answer` and TRL do not either;
        tasks of lm-eval follow ``--model hf``, which leaves that to the tokenizer.
    Raises:
        ConfigError: pictures, and a pair or an engine that reads text alone.
    """
    model = _loaded(engine, arguments, sees=sees)
    if model.add_bos_token is None and chat_template_of(model) and model.tokenizer("")["input_ids"]:
        model.add_bos_token = False
    return model


def _loaded(engine: str, arguments: Mapping[str, Any], *, sees: bool) -> Any:
    if sees and engine == "vllm":
        raise ConfigError("the prompts show pictures, which pairs in vLLM do not read yet: use --engine hf")
    if engine == "vllm":
        from aad_plugin.harness.vllm_model import AADVLLM

        return AADVLLM(**arguments)
    import torch

    chosen = {"device": "cuda" if torch.cuda.is_available() else "cpu", **arguments}
    if sees:
        from aad_plugin.harness.multimodal import AADMultimodalLM

        return AADMultimodalLM(**chosen)
    from aad_plugin.harness.model import AADLM

    return AADLM(**chosen)


def identity(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Of model_args those that decide what is answered, with a mark of the files of models in folders (weights, template,
    configuration): fit to be written down."""
    own = {name: value for name, value in arguments.items() if name not in _ELSEWHERE}
    named = arguments.get("pair")
    is_preset = named is not None and not Path(str(named)).expanduser().exists()  # such a name stands for its weights
    parts = {} if is_preset else take_source(dict(arguments)).parts()
    given = {**parts, **{name: own[name] for name in _MODELS if name in own}}
    files = {}
    for role, part in given.items():
        names = part if isinstance(part, list | tuple) else [part] if Path(str(part)).exists() else str(part).split("+")
        for name in names:
            if mark := local_files(str(name)):
                files[f"{role}={name}" if len(names) > 1 else role] = mark
    return {**own, **({"files": files} if files else {})}


def scorer_weights(*names: str | None) -> dict[str, dict[str, str]]:
    """Marks of the reward models among the names whose files lie in folders, to stand beside the names; {} for none.

    Of an adapter its base is marked, too.
    """
    from aad_plugin.judges.kinds.reward import reward_mark

    found = {}
    for name in names:
        if name and name.startswith("reward:"):
            mark = reward_mark(name.removeprefix("reward:"))
            if mark["files"]:
                found[name] = digest(mark)[:16]
    return {"scorer_weights": found} if found else {}


def local_files(name: str) -> str | None:
    """A mark of a model's files, which may change under their name; None of a hub id or a preset, which stand for them."""
    return model_files_mark(name.removeprefix("reward:"))


def render(model: Any, prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """The text the model reads: by its chat template; without one, the turns as paragraphs to be continued.

    Of a model that sees, with a mark of the prompt's pictures at its end.

    Raises:
        ConfigError: the template takes no such conversation.
    """
    if getattr(model, "sees", False):
        return model.render_prompt(prompt)
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
    if not model.tokenizer.chat_template:
        return without_template(turns)
    return model.apply_chat_template(turns)


def check_room(model: Any, contexts: Sequence[str], budget: int, what: str = "prompt", skip: str = "") -> None:
    """Refuse what lm-eval would answer after cutting off the prompt's beginning.

    Args:
        contexts: from `render`. budget: new tokens per answer. what: one of them in a user's words.
        skip: the option that leaves out such prompts, where the command has one.
    """
    for row, length in too_long(model, contexts, budget):
        leave_out = f", or leave it out with {skip}" if skip else ""
        raise ConfigError(
            f"{what} {row + 1} has {length} tokens; with {budget} new ones it exceeds {whose_context(model)}: lower "
            f"--max-new-tokens, or pass a larger max_length in --model-args{leave_out}"
        )


def too_long(model: Any, contexts: Sequence[str], budget: int) -> Iterator[tuple[int, int]]:
    """Yield (row, length in tokens) of the prompts that leave no room for an answer; arguments as in `check_room`."""
    for row, context in enumerate(contexts):
        length = model.num_tokens(context) if getattr(model, "sees", False) else len(model.tok_encode(context))
        if length + budget > model.max_length:
            yield row, length


def whose_context(model: Any) -> str:
    """The context that a model answers in, in words that say where its length comes from."""
    arguments = getattr(model, "_arguments", None)
    given = arguments.hflm.get("max_length") or arguments.hflm.get("max_model_len") if arguments else None
    if given and int(given) == model.max_length:
        return f"the context of {model.max_length} tokens that --model-args set"
    sides = getattr(getattr(model, "model", None), "sides", None)
    for role, one in sides.models().items() if sides is not None else ():
        if known_context(one.config) == model.max_length:
            return f"the {role}'s context of {model.max_length}"
    return f"the context of {model.max_length}"


def ask(model: Any, contexts: Sequence[str], gen_kwargs: Mapping[str, Any], *, progress: bool = True) -> list[Stored]:
    """Answer rendered prompts in one call, all under the same settings."""
    from aad_plugin.harness.task_host import generate_request

    requests = [generate_request(context, dict(gen_kwargs)) for context in contexts]
    texts = model.generate_until(requests, disable_tqdm=not progress)
    return [Stored(str(text), is_truncated(text)) for text in texts]
