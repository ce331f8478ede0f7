"""The pair as one causal language model: ``forward`` returns decoded scores as its logits.

Owns the transformers host: whatever ``generate`` offers (padded batches, sampling, beams, streamers, stop strings,
prompt lookup, static cache) works on the scores. The rule itself is ``decoding.py``; loading weights is ``loading.py``.

    pair = AlignedPair.from_pretrained("demo")
    pair.generate(**pair.tokenizer("Hello", return_tensors="pt"), max_new_tokens=20)
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from aad_plugin.decoding import logprobs_of
from aad_plugin.errors import ConfigError
from aad_plugin.pair import cache_names
from aad_plugin.pair.cache import PairCache, can_repeat
from aad_plugin.pair.call import Call
from aad_plugin.pair.compiled import CompiledStep
from aad_plugin.pair.config import AlignedPairConfig, bare_generation_config, context_length, shared_vocab
from aad_plugin.pair.draft_loading import load_draft
from aad_plugin.pair.drafts import Draft
from aad_plugin.pair.guides import Guides
from aad_plugin.pair.host_hooks import HostHooks
from aad_plugin.pair.loading import Parts, load_parts
from aad_plugin.pair.multimodal import (
    MultimodalInputs,
    is_prompt,
    positions_of,
    take_multimodal,
)
from aad_plugin.pair.option_checks import (
    check_beside_own_draft,
    check_beside_pictures,
    check_cache,
    gives_ids_alone,
    mark_cache,
    refuse_ignored,
)
from aad_plugin.pair.proof import Proof, prove, prove_use
from aad_plugin.pair.reading import EXPO, BuildCache, Role, Sparing
from aad_plugin.pair.recorder import TokenRecorder
from aad_plugin.pair.rounding import coarsest_dtype, say_dtype
from aad_plugin.pair.same_weights import SAME_WEIGHTS
from aad_plugin.pair.scoring import WHOLE, Scorer
from aad_plugin.pair.sides import Sides
from aad_plugin.pair.step import Step, first_copies
from aad_plugin.settings import TOKEN_SETTINGS, DecodingSettings
from aad_plugin.sources.folder import save_pair
from aad_plugin.sources.known_options import check_shortcuts

logger = logging.getLogger(__name__)


class AlignedPair(PreTrainedModel, HostHooks, GenerationMixin):
    """A policy and its reference that decode as one causal language model.

    Args:
        sides: where the weights are, for example :class:`aad_plugin.pair.checkpoints.Checkpoints`.
        vocab_size: number of shared token ids; later columns (padding of either head) are cut.
        settings: the decoding settings of calls that pass none.
        tokenizer: the policy's tokenizer; decoding does not use it.
        processor: for a pair that sees: turns prompts with pictures into model inputs; contains the tokenizer.
        source: what the pair was loaded from; :meth:`save_pretrained` writes it.
        shortcuts: which work ``generate`` may skip. None of them changes a token of AAD in float32.
            "none": skip nothing.
            "candidates": compute the reference's output layer for plausible tokens only.
            "lazy": as "candidates". Of two checkpoints, the reference also waits until a step has more than one plausible
            token. With one base, both sides run in one forward pass.
            "packed": as "lazy", and on a CPU keep a second copy of the weights, packed for products.
            "auto": on a CPU "packed" if the copies fit into a quarter of the free memory, else "lazy". On other devices,
            and for small output layers, it computes whole rows, and only a single row of two checkpoints waits.
            With all but "none", a LoRA policy that decodes alone uses merged weights if these fit into memory as well.
        guides: further rewards of strategy "guided"; their models are among ``sides``.
        chat_template_args: what chats are rendered with besides, such as {"enable_thinking": False}.
    Raises:
        ConfigError: an unknown name of shortcuts.
        VocabMismatch: a model's head is smaller than ``vocab_size``.
    """

    config_class = AlignedPairConfig
    main_input_name = "input_ids"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(
        self,
        sides: Sides,
        *,
        vocab_size: int | None = None,
        settings: DecodingSettings | None = None,
        tokenizer: Any = None,
        processor: Any = None,
        source: Any = None,
        shortcuts: str = "auto",
        guides: Guides | None = None,
        chat_template_args: Mapping[str, Any] | None = None,
    ) -> None:
        policy = sides.policy
        config = AlignedPairConfig(policy_config=policy.config)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, getattr(policy.config.get_text_config(), name, None))
        config.max_position_embeddings = context_length(
            sides, [reader.config for reader in (guides or Guides()).readers]
        )
        config._attn_implementation = policy.config._attn_implementation
        super().__init__(config)
        self.sides = sides
        self.vocab_size = config.vocab_size = shared_vocab(sides, vocab_size)
        self.settings = settings or DecodingSettings()
        self.tokenizer = tokenizer if processor is None else processor.tokenizer
        self.processor = processor
        self.source = source
        self.shortcuts = check_shortcuts(shortcuts)
        self.guides = guides or Guides()
        self.chat_template_args = dict(chat_template_args or {})
        self.generation_config = bare_generation_config(policy, self.tokenizer, self.vocab_size)
        self._calls: list[Call] = []
        self._compiled: dict[str, CompiledStep] = {}
        self._is_stateful = any(getattr(model, "_is_stateful", False) for model in sides.models().values())
        self.is_cached = True
        self.draft: Draft | None = None
        self.proof: Proof | None = None
        self.proof_file: Path | None = None
        self.proven_uses: set[str] = set()
        self.picture_text: Any = None
        self.loaded_with: dict[str, Any] = {}
        self.eval()

    @property
    def sums_in_float32(self) -> bool:
        """Whether AAD compares logits of plausible tokens that were summed in float32, whatever the head's dtype."""
        return self.sides.gives_sums or (self.sparing(1).candidates and self.sides.gives_columns)

    def prove(self) -> Proof:
        """Hold every path that spares work against plain readings and take the first that agrees; see `proof.py`.

        Loading does it. A pair put together in memory is not proven until this is called.
        """
        self.proof = prove(self)
        return self.proof

    # ------------------------------------------------------------------ scores

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        settings: DecodingSettings | None = None,
        multimodal: MultimodalInputs | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return the strategy's scores in place of logits.

        Args:
            input_ids: (B, T) int64, the tokens after what the cache holds.
            attention_mask: (B, cached + T), 0 for padding; None for all ones.
            position_ids: (B, T) int64; needed with left padding.
            cache: what :meth:`new_cache` returned for these settings, or None; ``past_key_values``, as transformers
                called it before 5.24, is taken too.
            use_cache: ignored without a cache; a pair never builds one by itself.
            logits_to_keep: positions to score, counted from the end; 0 for all.
            settings: decoding of this call; default: the running ``generate`` call's, else the pair's.
            multimodal: pictures (or sound) of the prompts; read together with the prompt and not again in later steps.
            **kwargs: what hosts pass to every model, and tensors that a multimodal pair's models read (``pixel_values`` …);
                other tensors are refused (but ``option_checks.UNUSED``).
        Returns:
            ``logits`` (B, K, V) float32 scores and the cache.
        Raises:
            NonFiniteLogits: a model produced NaN or ±inf; names the model and the step.
            ConfigError: a cache built for another kind of strategy, an argument that a pair would have to ignore, or a
                host that lost the cache of its own call.
        """
        cache = cache_names.take({"cache": cache, **kwargs})
        if multimodal is None and kwargs:
            multimodal = self._take_multimodal(kwargs, input_ids)
        refuse_ignored(kwargs)
        call = self._calls[-1] if self._calls else None
        settings = settings or (call.settings if call else self.settings)
        check_cache(cache, settings, self._cache_roles(settings))
        if settings.roles == (EXPO,):
            self.sides.extrapolate(settings.expo_scale)
        if call is not None:
            call.check(cache)
        shown = multimodal if multimodal is not None and is_prompt(cache) else None
        step = Step(input_ids, cache, logits_to_keep, attention_mask, position_ids, shown)
        spares = call is not None and call.spares(settings) and logits_to_keep > 0
        copies = self._copies(call, step)
        step = first_copies(step, copies)
        scorer = Scorer(self.sides, self.guides, self.vocab_size, settings, call)
        scores = scorer.score(step, self.sparing(len(step.input_ids)) if spares else WHOLE)
        if copies > 1 and cache is not None:
            cache.batch_repeat_interleave(copies)
            scores = scores.repeat_interleave(copies, 0)
        return cache_names.output(scores, cache)

    def _copies(self, call: Call | None, step: Step) -> int:
        """Return how many adjacent rows of a step are read once for all."""
        if call is None or call.copies == 1 or not can_repeat(step.cache) or not is_prompt(step.cache):
            return 1
        shown = step.multimodal
        has_own = shown is not None and len(step.input_ids) // call.copies % shown.rows  # pictures of each copy
        return 1 if has_own else call.copies

    def get_compiled_call(self, compile_config: Any) -> Any:
        """Return what reads the steps of a call that compiles them. The host's own would take what a pair counts at each
        step into the graph, and compile it anew at the next."""
        return self._compiled_forward

    def _compiled_forward(self, input_ids: Tensor, **inputs: Any) -> CausalLMOutputWithPast:
        """Return what :meth:`forward` returns for a step of the running ``generate`` call, by a compiled graph where one
        serves: one token per row, over static caches.

        Raises:
            ProofFailed: the graph gives other logits. ConfigError: the call asked to compile what cannot be compiled.
        """
        call, cache = self._calls[-1], cache_names.take(inputs)
        settings, roles = call.settings, call.settings.roles
        found = None
        if call.compiled is not None and cache is not None and call.compiled.fits(cache, input_ids):
            if roles == (EXPO,):
                self.sides.extrapolate(settings.expo_scale)
            mask = inputs.get("attention_mask")
            mask = torch.ones_like(input_ids) if mask is None else mask
            places = inputs.get("position_ids")
            found = call.compiled(settings, roles, self.vocab_size, self.shortcuts, cache, input_ids, mask, places)
        if found is None:
            return self(input_ids=input_ids, **inputs)
        scores, rows = found
        # A graph writes its next step over this one's rows, so nothing but the step's name is kept for an error.
        call.watch.show({}, scores, call.step(cache, 1))
        if call.recorder is not None:
            call.recorder.show(dict(zip(roles, rows, strict=True)), scores, settings.strategy)
        return cache_names.output(scores, cache)

    def sparing(self, rows: int) -> Sparing:
        """Return what a step of AAD for ``rows`` rows leaves out."""
        if self.shortcuts == "auto":
            return self.sides.auto(rows)
        return Sparing(candidates=self.shortcuts != "none", lazy=self.shortcuts not in ("none", "candidates"))

    @torch.no_grad()
    def answer_logprobs(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prompt_length: int,
        roles: tuple[Role, ...] = ("policy", "reference"),
        multimodal: MultimodalInputs | None = None,
    ) -> list[Tensor]:
        """Return each role's log-probability of the tokens after the prompt, in one forward.

        Args:
            input_ids: (B, T) int64, left-padded prompts of ``prompt_length`` tokens followed by answers.
            attention_mask: (B, T), 0 for padding.
            prompt_length: number of leading positions that are not scored. multimodal: what the prompts show.
        Returns:
            per role (B, T − prompt_length) float32, nats.
        """
        places = positions_of(self.sides.policy, input_ids, attention_mask, multimodal)
        keep = input_ids.shape[1] - prompt_length + 1
        with self.sides.spare(self.shortcuts):
            rows = self.sides.logits(roles, Step(input_ids, None, keep, attention_mask, places, multimodal))
        targets = input_ids[:, prompt_length:, None]
        return [logprobs_of(row[:, :-1, : self.vocab_size], targets).squeeze(-1) for row in rows]

    @torch.no_grad()
    def choices(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prompt_length: int,
        settings: DecodingSettings,
        multimodal: MultimodalInputs | None = None,
    ) -> Tensor:
        """Return what a strategy would have chosen at each step of given answers, in one forward.

        Args:
            input_ids: (B, T) int64, left-padded prompts of ``prompt_length`` tokens followed by answers.
            attention_mask: (B, T), 0 for padding.
            prompt_length: number of leading positions that are not chosen.
            settings: the strategy, one of token by token, and its strength. multimodal: what the prompts show.
        Returns:
            (B, T − prompt_length) int64.
        """
        places = positions_of(self.sides.policy, input_ids, attention_mask, multimodal)
        keep = input_ids.shape[1] - prompt_length + 1
        self.guides.check(settings)
        with self._call(settings, None):
            scores = self(
                input_ids, attention_mask, places, logits_to_keep=keep, settings=settings, multimodal=multimodal
            ).logits
        return scores[:, :-1].argmax(-1)

    # ---------------------------------------------------------------- generate

    def generate(
        self,
        *args: Any,
        strategy: str | None = None,
        recorder: TokenRecorder | None = None,
        copies: int = 1,
        **kwargs: Any,
    ) -> Any:
        """Decode as ``GenerationMixin.generate`` does, on the pair's scores.

        Args:
            strategy: aad, greedy, reference, eft, expo, guided or vcd. ``sample`` and ``best_of_n`` draw with noise keyed
                by prompt: use :func:`aad_plugin.answer` for them.
            recorder: receives every step's rows and scores; it must also be one of the ``stopping_criteria``.
            copies: of each prompt among the rows, adjacent; a prompt is read once for all of them where the cache's rows
                can be repeated (dynamic layers of keys and values) and nothing is recorded.
            **kwargs: the strategy's settings (:data:`TOKEN_SETTINGS`), and what ``GenerationMixin.generate`` takes.
        Raises:
            ConfigError: an option that has no meaning on log-ratios, continuous batching, or rows that are no copies.
        """
        changes = {name: kwargs.pop(name) for name in TOKEN_SETTINGS if name in kwargs}
        settings = self.settings.override(strategy=strategy, **changes)
        self.guides.check(settings)
        if self.draft is not None:
            check_beside_own_draft(kwargs.get("assistant_model"), recorder)
        if settings.samples:
            raise ConfigError(
                f"generate() decodes token by token; strategy={settings.strategy!r} is answered by "
                "aad_plugin.answer(pair, prompts, strategy=…)"
            )
        if kwargs.get("inputs_embeds") is not None:
            raise ConfigError("a pair decodes token ids: its two models have embeddings of their own (pass input_ids)")
        if kwargs.get("cache_implementation") == "paged":
            self.generate_batch()
        if kwargs.get("assistant_model") is not None:
            self.refuse_drafts("assistant_model")
        if args and isinstance(args[0], Tensor):
            kwargs, args = {"input_ids": args[0], **kwargs}, (None, *args[1:])
        multimodal = kwargs.pop("multimodal", None) or self._take_multimodal(kwargs)
        if multimodal is not None:
            check_beside_pictures(self.sides.policy, self.draft or kwargs.get("assistant_model"))
            kwargs["multimodal"] = multimodal
        ids_alone = gives_ids_alone(
            kwargs.get("generation_config") or (args[1] if len(args) > 1 else None) or self.generation_config, kwargs
        )
        if type(copies) is not int or copies < 1:
            raise ConfigError(
                f"copies is how often each prompt stands among the rows, an integer from 1, got {copies!r}"
            )
        with self._call(settings, recorder) as call:
            call.copies = copies if recorder is None else 1
            # Outside inference mode torch keeps a version of every result: a tenth of a step whose cost is launching.
            with torch.inference_mode() if ids_alone else contextlib.nullcontext():
                answers = super().generate(*args, **kwargs)
            call.watch.require()
        # A copy made outside the mode is a tensor like any other, which a training step may read.
        return answers.clone() if ids_alone else answers

    def _take_multimodal(self, given: dict[str, Any], input_ids: Tensor | None = None) -> MultimodalInputs | None:
        """Take what only a multimodal model reads out of keyword arguments."""
        rows = given.get("input_ids") if input_ids is None else input_ids
        return take_multimodal(given, self.sides.policy, rows)

    def refuse_drafts(self, option: str) -> None:
        """Raise ConfigError where ``option`` asks a cache to take back tokens that it cannot take back."""
        if self._is_stateful or not self.is_cached:
            kind = type(self.sides.policy).__name__
            raise ConfigError(
                f"{option}: {kind} cannot take back tokens that it has read (transformers refuses drafts for it, too): "
                "leave it out"
            )

    def new_cache(self, settings: DecodingSettings | None = None, **cache_options: Any) -> Cache | None:
        """Return an empty dynamic cache for calls of :meth:`forward` with these settings; None for a pair without."""
        from transformers import DynamicCache

        if not self.is_cached:
            return None
        settings = settings or self.settings
        return self._build_cache(settings, lambda model: DynamicCache(config=model.config, **cache_options))

    @contextlib.contextmanager
    def _call(self, settings: DecodingSettings, recorder: TokenRecorder | None) -> Iterator[Call]:
        # A stack, since an assisted call may draft with this very pair under another strategy.
        call = Call(settings, recorder)
        self._calls.append(call)
        try:
            with self.sides.spare(self.shortcuts):
                yield call
        finally:
            self._calls.pop()

    def _cache_roles(self, settings: DecodingSettings) -> tuple[Role, ...]:
        """Those that keep a cache: reward models besides."""
        return self.guides.cache_roles if settings.strategy == "guided" else settings.roles

    def _build_cache(self, settings: DecodingSettings, build: BuildCache) -> Cache | None:
        # The policy's rows twice: it reads the pictures, and noisy copies of them.
        is_twice = settings.strategy == "vcd"
        cache = self.sides.new_cache(("policy",) if is_twice else self._cache_roles(settings), build)
        if is_twice and cache is not None:
            cache = PairCache(cache, sides=2)
        mark_cache(cache, settings, self._cache_roles(settings))
        return cache

    # ------------------------------------------------------------------ plumbing

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.sides.policy.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.sides.policy.get_output_embeddings()

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: each model tied its own weights when it was loaded."""

    def to(self, *args: Any, **kwargs: Any) -> AlignedPair:
        """Move the pair; a reference placed on a device of its own stays there."""
        if len({model.device for model in self.sides.models().values()}) == 1:
            return super().to(*args, **kwargs)
        self.sides.policy.to(*args, **kwargs)
        return self

    @classmethod
    def from_pretrained(cls, pair: str | None = None, **model_args: Any) -> AlignedPair:  # type: ignore[override]
        """Load a pair by preset name, pair folder or TRL output folder, or by its parts.

        Args:
            pair: preset name (``aad pairs list``), pair folder or TRL output folder.
            **model_args: the names of lm-eval's model_args (policy, reference, adapter, reference_adapter, base,
                alpha, strategy, dtype, device …); see docs/options.md.
        Returns:
            an :class:`AlignedPair` in eval mode with ``tokenizer`` set.
        Raises:
            ConfigError, ReferenceUnknown, VocabMismatch, AssetError: as their names say.
        """
        return cls.from_parts(load_parts(pair=pair, **model_args))

    @classmethod
    def from_parts(cls, parts: Parts) -> AlignedPair:
        """Join loaded parts to a pair and let it prove itself.

        Raises:
            ProofFailed: no path of the pair gives what its models give alone.
        """
        pair = cls(
            parts.sides,
            vocab_size=parts.vocab_size,
            settings=parts.settings,
            tokenizer=parts.tokenizer,
            processor=parts.processor,
            source=parts.source,
            shortcuts=parts.shortcuts,
            guides=parts.guides,
            chat_template_args=parts.chat_template_args,
        )
        pair.loaded_with = parts.loaded_with
        if not parts.guides.is_alone and parts.sides.have_same_weights():
            logger.warning("%s", SAME_WEIGHTS)
        pair.prove()
        if parts.draft_model is not None:
            pair.refuse_drafts("draft_model")
            pair.draft = load_draft(parts.draft_model, pair.sides, pair.tokenizer, pair.vocab_size)
            prove_use(pair, "drafts")
        say_dtype(coarsest_dtype(parts.sides.models().values()))
        return pair

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:  # type: ignore[override]
        """Write a pair folder: configuration, adapters and pointers to checkpoints; no copied base weights.

        Raises:
            ConfigError: the pair was built in memory, or loaded with options that a folder does not keep and that make it
                another pair (revision, tokenizer, gguf_file, chat_template_args, quantisation …); those that say how it
                is run (device, dtype, draft_model …) are given anew to whoever loads it.
        """
        save_pair(self, save_directory)


def load_pair(pair: str | None = None, **model_args: Any) -> AlignedPair:
    """Load a pair; arguments, result and errors are those of :meth:`AlignedPair.from_pretrained`."""
    return AlignedPair.from_pretrained(pair, **model_args)
