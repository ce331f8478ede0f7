"""``--model aad-multimodal``: an aligned pair that sees, as an lm-eval model for tasks with pictures.

lm-eval's ``HFMultimodalLM`` brings its options (``max_images``, ``image_max_side``, ``interleave`` …) and chat templates;
everything else is ``--model aad``. A request with pictures becomes one whose prompt ends with their digests, which are cut
off before anything is encoded: lm-eval's cache, kept answers and traces thereby tell pictures apart by what they show.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import DEFAULT_IMAGE_PLACEHOLDER, HFMultimodalLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import replace_placeholders, resize_image
from torch import Tensor

from aad_plugin.errors import ConfigError, first_line
from aad_plugin.explain.shown_pictures import write_shown
from aad_plugin.harness import output_folder
from aad_plugin.harness.cache import never_store
from aad_plugin.harness.model import AADLM
from aad_plugin.pair.encoding import Prompt, Rendered, encode, image_token, may_share_a_batch, render, token_ids
from aad_plugin.pair.model import AlignedPair
from aad_plugin.sources.images import Picture, check_number, read_picture
from aad_plugin.sources.processors import check_same_processor, load_processor
from aad_plugin.texts.parts import as_parts
from aad_plugin.texts.rendering import chat_template_of

_SHOWN = "\x00shows "  # between a prompt and its pictures' digests; no tokenizer sees it


class AADMultimodalLM(AADLM, HFMultimodalLM):
    """An aligned pair that sees behind lm-eval's interface.

    Args:
        **model_args: as for :class:`AADLM`, and those of ``HFMultimodalLM``.
    Raises:
        AADError: a mistake in the arguments, or a pair that reads text alone; one line says what was expected.
    """

    hosts = (HFLM, HFMultimodalLM)
    processor: Any = None
    sees = True

    def __init__(self, pair: str | None = None, pretrained: str | AlignedPair | None = None, **model_args: Any) -> None:
        self._pictures: dict[str, tuple[Picture, ...]] = {}
        self._by_digest: dict[str, Picture] = {}  # one copy of a picture that many requests show
        if str(model_args.get("batch_size", 1)).startswith("auto"):
            raise ConfigError(
                "batch_size=auto is not known for pictures (nor to lm-eval's hf-multimodal): pass a number"
            )
        if isinstance(pretrained, AlignedPair):
            self.processor = pretrained.processor
            _require(self.processor)
            given = [name for name in ("min_pixels", "max_pixels") if model_args.get(name) is not None]
            if given:
                raise ConfigError(
                    f"{given[0]} is of a processor that is loaded here, and a pair that is loaded already brings its own: "
                    "leave it out, or set it there"
                )
            model_args.setdefault("image_string", image_token(self.processor))
        try:
            super().__init__(pair, pretrained, **model_args)
        except AssertionError as error:  # HFMultimodalLM's own word for a configuration without that id
            raise ConfigError(
                f"{first_line(error)} (or pass image_string=…, what stands for a picture in a prompt)"
            ) from error

    # ------------------------------------------------------------------ loading

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **options: Any) -> None:
        if isinstance(pretrained, AlignedPair):
            self.processor = pretrained.processor
        else:
            named = {name: options[name] for name in ("revision", "trust_remote_code") if options.get(name)}
            self.processor = load_processor(pretrained, self._config, **named, **self.pixels)
        _require(self.processor)
        self.tokenizer = self.processor.tokenizer
        if isinstance(pretrained, AlignedPair):
            return
        if tokenizer or self._source.tokenizer_at(options.get("revision")) != self._source.backbone:
            super()._create_tokenizer(pretrained, tokenizer, **options)
            _check_place(self.processor, self.tokenizer)
            self.processor.tokenizer = self.tokenizer

    def _create_model(self, pretrained: str, **options: Any) -> None:
        source = self._source
        if not source.shares_base:
            from transformers import AutoConfig

            own = {**options, **self._arguments.reference_options}
            named = {name: own[name] for name in ("revision", "trust_remote_code") if own.get(name)}
            config = AutoConfig.from_pretrained(str(source.reference), **named)
            other = load_processor(str(source.reference), config, **named, **self.pixels)
            check_same_processor(self.processor, other)
        super()._create_model(pretrained, **options)

    # ----------------------------------------------------------------- prompts

    def apply_chat_template(self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """Render a chat, ``<image>`` in its turns as pictures."""
        self.chat_applied = True
        turns = [{**turn, "content": self._shown(turn["content"])} for turn in chat_history]
        text = self._template(add_generation_prompt)(self.settled_turns(turns, add_generation_prompt))
        self._chats[text] = [dict(turn) for turn in chat_history]
        return text

    def _shown(self, text: str) -> list[dict[str, Any]]:
        """A turn's parts, as lm-eval's ``apply_chat_template`` takes them from its text."""
        texts = text.split(DEFAULT_IMAGE_PLACEHOLDER)
        num_shown = min(self.max_images, len(texts) - 1)
        place: dict[str, Any] = {"type": "image"}
        if not self.interleave:
            return [place] * num_shown + [{"type": "text", "text": "".join(texts)}]
        parts = []
        for number, one in enumerate(texts):
            parts += [{"type": "text", "text": one}] if one else []
            parts += [place] if number < num_shown else []
        return parts

    def _template(self, add_generation_prompt: bool) -> Callable[..., str]:
        template = chat_template_of(self)  # lm-eval's method reads the processor's, without chat_template_args
        chosen = template if isinstance(template, str) else None
        return functools.partial(super()._template(add_generation_prompt), chat_template=chosen)

    def settled_turns(self, chat: list[dict[str, Any]], add_generation_prompt: bool = True) -> list[dict[str, Any]]:
        """A chat in parts as its template takes it, see `rendering.settled`."""
        return super().settled_turns(
            [{**turn, "content": as_parts(turn["content"])} for turn in chat], add_generation_prompt
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answer requests; their third argument holds the pictures."""
        labelled = [self._with_digests(request) for request in requests]
        for request, own in zip(requests, labelled, strict=True):
            if self._is_drawn_anew(own):
                never_store(self.cache_hook, request.args)  # lm-eval stores an answer under the request as it was, too
        folder = output_folder.run_folder()
        if folder is not None:
            self._write_shown(folder, requests, labelled)
        return super().generate_until(labelled, disable_tqdm)

    def _write_shown(self, folder: Path, requests: list[Instance], labelled: list[Instance]) -> None:
        """Keep small copies of the pictures for the report, each document's once: lm-eval's samples have none."""
        shown: dict[str, dict[int, tuple[int, str, tuple[Picture, ...]]]] = {}
        for request, own in zip(requests, labelled, strict=True):
            pictures = self._pictures.get(own.args[0])
            if pictures and request.task_name is not None and request.doc_id is not None:
                number = int(request.doc_id)
                shown.setdefault(request.task_name, {}).setdefault(number, (number, request.args[0], pictures))
        write_shown(folder, self.rank, {task: list(documents.values()) for task, documents in shown.items()})

    def _as_asked(self, context: str) -> str:
        return context.partition(_SHOWN)[0]

    def _with_digests(self, request: Instance) -> Instance:
        if len(request.args) < 3:
            return request
        context, gen_kwargs, shown = request.args
        place = f"document {request.doc_id} of {request.task_name}"
        given = list(shown.get("visual") or ())
        if self.chat_applied:  # its places were cut to max_images, too
            given = given[: self.max_images]
        if set(shown) - {"visual"} or len(given) != context.count(self._place_of_picture()):
            raise ConfigError(
                f"{place} has {len(given)} pictures and {context.count(self._place_of_picture())} places for one "
                f"({self._place_of_picture()}): expected one picture for each, and nothing besides"
            )
        given = given[: self.max_images]
        check_number(len(given), place)
        pictures = tuple(self._picture(one, f"{place}, picture {number}") for number, one in enumerate(given, start=1))
        request = copy.copy(request)
        request.arguments = (self._labelled(context, pictures), gen_kwargs)
        return request

    def _labelled(self, context: str, pictures: tuple[Picture, ...]) -> str:
        """Return a context with the digests of its pictures, which are remembered."""
        labelled = f"{context}{_SHOWN}{' '.join(picture.digest for picture in pictures)}"
        self._pictures[labelled] = pictures
        if context in self._chats:
            self._chats[labelled] = self._chats[context]
        return labelled

    def render_prompt(self, prompt: Prompt) -> str:
        """Return a prompt, text or messages with pictures, as the context of a request that needs no third argument.

        Raises:
            ConfigError: as `aad_plugin.pair.encoding.render`.
        """
        rendered = render(self.model, prompt, True, 0, self.chat_template_args)
        self.chat_applied = True
        return self._labelled(rendered.text, rendered.pictures) if rendered.pictures else rendered.text

    def num_tokens(self, context: str) -> int:
        """Return how many tokens a prompt has, with those that stand for its pictures."""
        return len(token_ids(self.model, self._rendered(context)))

    def _place_of_picture(self) -> str:
        return self._token() if self.chat_applied else DEFAULT_IMAGE_PLACEHOLDER

    def _token(self) -> str:
        named = self._arguments.hflm.get("image_string")
        return str(named or image_token(self.processor) or self.image_token)

    def _picture(self, given: Any, place: str) -> Picture:
        picture = self._shared(read_picture(given, place))
        if not (self.image_width or self.image_height or self.image_max_side):
            return picture
        small = resize_image(picture.image, self.image_width, self.image_height, self.image_max_side)
        return self._shared(read_picture(small, place))

    def _shared(self, picture: Picture) -> Picture:
        return self._by_digest.setdefault(picture.digest, picture)

    def _next_context(self, context: str, reply: str, turn: str) -> str:
        text, _, digests = context.partition(_SHOWN)
        following = super()._next_context(text, reply, turn)
        if not digests:
            return following
        self._pictures[f"{following}{_SHOWN}{digests}"] = self._pictures[context]
        return f"{following}{_SHOWN}{digests}"

    # ---------------------------------------------------------------- encoding

    def tok_encode(self, string: Any, *args: Any, **kwargs: Any) -> Any:
        """Encode text, without what stands for its pictures."""
        return super().tok_encode(string.partition(_SHOWN)[0] if isinstance(string, str) else string, *args, **kwargs)

    def tok_batch_encode(self, strings: Any, *args: Any, left_truncate_len: int | None = None, **kwargs: Any) -> Any:
        """Encode prompts, those with pictures by the processor."""
        strings = list(strings)
        self._multimodal = None
        if not any(self._pictures.get(text) for text in strings):
            plain = [self._rendered(text).text for text in strings]
            found = super().tok_batch_encode(plain, *args, left_truncate_len=left_truncate_len, **kwargs)
            self._contexts = strings
            return found
        self._contexts = strings
        prompts = [self._rendered(text) for text in strings]
        if not may_share_a_batch(self.model, prompts):
            raise ConfigError("this model's processor pads pictures of different sizes in a batch: pass batch_size=1")
        batch = encode(self.model, prompts)
        self._multimodal = batch.multimodal
        if left_truncate_len and batch.ids.shape[1] > left_truncate_len:
            raise ConfigError(
                f"a prompt with pictures has {batch.ids.shape[1]} tokens and the context leaves {left_truncate_len}: "
                "pictures are not cut; pass image_max_side=…, a smaller max_gen_toks or a longer max_length"
            )
        return batch.ids, batch.mask

    def _rendered(self, labelled: str) -> Rendered:
        text, shows, _ = labelled.partition(_SHOWN)
        if shows and not self.chat_applied:
            text = replace_placeholders(text, DEFAULT_IMAGE_PLACEHOLDER, self._token(), self.max_images)
        return Rendered(text, self.chat_applied, self._pictures.get(labelled, ()))

    # ----------------------------------------------------------------- scoring

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score choices after text; lm-eval has no such requests with pictures yet."""
        if requests and len(requests[0].args) >= 3:
            raise ConfigError(
                "choices after pictures are not scored (lm-eval's hf-multimodal does not either): use a generate_until task"
            )
        return super().loglikelihood(list(requests), disable_tqdm)

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        return AADLM._model_call(self, inps, attn_mask, labels)


def _check_place(processor: Any, tokenizer: Any) -> None:
    """Raise ConfigError unless a processor's place of a picture is the same token to another tokenizer."""
    place = image_token(processor)
    if place is None:
        return
    own, other = (one.convert_tokens_to_ids(place) for one in (processor.tokenizer, tokenizer))
    if own != other:
        raise ConfigError(
            f"the processor's place of a picture, {place}, is token {own} of its own tokenizer and {other} of the one at "
            f"{tokenizer.name_or_path!r}: leave tokenizer out, or pass one that was made from the checkpoint's"
        )


def _require(processor: Any) -> None:
    if processor is None:
        raise ConfigError(
            "pictures need a pair that sees, and this one reads text alone: load checkpoints of image and text with their "
            "processor, or use --model aad for prompts of text"
        )
