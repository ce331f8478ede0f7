"""What transformers' ``generate`` calls back while it decodes with a pair: its options, caches, guesses and ends.

Owns the names that the host gives these steps. Knows nothing of scores.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation.configuration_utils import GenerationMode

from aad_plugin.errors import ConfigError
from aad_plugin.pair import cache_names
from aad_plugin.pair.cache import PairCache
from aad_plugin.pair.call import Call
from aad_plugin.pair.compiled import CompiledStep, cache_length, compiles
from aad_plugin.pair.drafts import CONFIDENCE, TOKENS, Draft, DraftReader
from aad_plugin.pair.guides import Guides
from aad_plugin.pair.multimodal import is_prompt, positions, refuse_beside_pictures
from aad_plugin.pair.option_checks import STATIC, check_beside_draft, check_config, check_guessing, refuse_batching
from aad_plugin.pair.proof import prove_use
from aad_plugin.pair.reading import BuildCache
from aad_plugin.pair.rope_switch import (
    grows_beyond,
    refuse_beyond,
    refuse_mixed,
    rope_limit,
    rope_switches,
    say_rereading,
)
from aad_plugin.pair.sides import Sides
from aad_plugin.settings import DecodingSettings


class HostHooks(GenerationMixin):
    """Base of :class:`aad_plugin.pair.model.AlignedPair`, which owns the attributes."""

    sides: Sides
    settings: DecodingSettings
    draft: Draft | None
    guides: Guides
    is_cached: bool
    _calls: list[Call]
    _compiled: dict[str, CompiledStep]

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Continuous batching drives one model's paged cache by itself and cannot hold a pair."""
        refuse_batching()

    init_continuous_batching = continuous_batching_context_manager = generate_batch

    def _build_cache(self, settings: DecodingSettings, build: BuildCache) -> Cache | None:
        """Return one cache for all that is read while such settings decode."""
        raise NotImplementedError

    def refuse_drafts(self, option: str) -> None:
        """Raise ConfigError where ``option`` asks a cache to take back tokens that it cannot take back."""
        raise NotImplementedError

    def _prepare_generation_config(self, *args: Any, **kwargs: Any) -> Any:
        """Let the host merge keyword arguments, a passed configuration and the model's own; refuse what has no meaning."""
        config, model_kwargs = super()._prepare_generation_config(*args, **kwargs)
        check_config(config, self._calls[-1].settings if self._calls else self.settings)
        if config.prompt_lookup_num_tokens:
            self.refuse_drafts("prompt_lookup_num_tokens")
        if model_kwargs.get("multimodal") is not None:
            refuse_beside_pictures(config)
        if self.draft is not None and self._calls:
            check_beside_draft(config)
            # The host's word for guesses that come from elsewhere than a model of its own; see _get_candidate_generator.
            config.prompt_lookup_num_tokens = config.num_assistant_tokens or TOKENS
        return config, model_kwargs

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        """Let the model say where a picture's tokens stand, if it has a rule of its own."""
        multimodal = model_kwargs.get("multimodal")
        if multimodal is not None:
            mask = model_kwargs.get("attention_mask")
            own = positions(self.sides.policy, inputs_tensor, multimodal, attention_mask=mask)
            if own is not None:
                return own
        return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ) -> None:
        """Build what the host would build for one model, for each model of the pair."""
        guesses = generation_mode == GenerationMode.ASSISTED_GENERATION
        if guesses:
            looked_up = generation_config.prompt_lookup_num_tokens
            option = "draft_model" if self.draft else "prompt_lookup_num_tokens" if looked_up else "assistant_model"
            check_guessing(generation_config, option, batch_size)
            if self._calls[-1].settings.strategy == "guided":
                self.guides.refuse_several(option)
        held = cache_names.take(model_kwargs)
        call = self._calls[-1]
        self._check_cache_options(generation_config, model_kwargs, held)
        if self._grows_beyond_its_rope(generation_config, model_kwargs):
            if held is not None or guesses or generation_config.cache_implementation in STATIC:
                raise ConfigError(
                    "this text may grow beyond the length at which the model's rotary factors change, and is read anew at "
                    "each step then: leave the given cache, static caches and drafts out, or lower max_new_tokens"
                )
            generation_config.use_cache = model_kwargs["use_cache"] = call.is_cached = False
            return None
        is_own = held is None and not guesses and self.is_cached
        if compiles(self.sides, generation_config, call.settings, is_own):
            call.compiled = self._compiled_step(generation_config.compile_config)
            max_cache_length = cache_length(max_cache_length)
        if held is not None or generation_config.use_cache is False:
            self._calls[-1].is_cached = held is not None
            return super()._prepare_cache_for_generation(
                generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
            )

        if not self.is_cached:
            generation_config.use_cache = model_kwargs["use_cache"] = False
            return None
        if generation_config.cache_implementation in STATIC:
            prove_use(self, "static cache")
        if guesses:
            prove_use(self, "drafts")

        def build(model: PreTrainedModel) -> Cache | None:
            own: dict[str, Any] = {}
            model._prepare_cache_for_generation(generation_config, own, generation_mode, batch_size, max_cache_length)
            return cache_names.take(own)

        cache = self._build_cache(self._calls[-1].settings, build)
        if cache is not None and cache.is_compileable:
            # Else the host makes a mask from the pair's configuration, which knows no windows.
            cache = PairCache(cache)
        if cache is not None and not cache_names.host_takes(cache):
            cache = None
        self._calls[-1].is_cached = cache is not None
        if cache is not None:
            model_kwargs[cache_names.host_name()] = cache
        else:  # else the host would go on to pass the last token alone
            generation_config.use_cache = model_kwargs["use_cache"] = False
        return None

    def _check_cache_options(self, config: Any, model_kwargs: dict[str, Any], held: Cache | None) -> None:
        """Raise ConfigError for what neither a given cache nor one of this pair's can hold."""
        if held is not None and model_kwargs.get("multimodal") is not None and not is_prompt(held):
            raise ConfigError(
                "pictures beside a cache that holds a text would not be read: leave them out where they are those it "
                "holds, or the cache where they are new"
            )
        shares = len(self.sides.models()) < len(self.sides.roles)
        if config.prefill_chunk_size and config.cache_implementation in STATIC and shares:
            raise ConfigError(
                "prefill_chunk_size beside a static cache is for pairs of two models: adapters of one base are more rows "
                "than the host makes the cache for; leave one of the two out"
            )

    def _grows_beyond_its_rope(self, config: Any, model_kwargs: dict[str, Any]) -> bool:
        """Whether the answer may cross a change of a model's rotary factors; says so once.

        Raises:
            ConfigError: some rows may cross it before others do, or the factors change with every length.
        """
        models = [*self.sides.models().values(), *(reader.model for reader in self.guides.readers)]
        switches = rope_switches(self.sides.models().values())
        if not switches and all(rope_limit(model) is None for model in models):
            return False
        mask, places = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
        shape = mask if mask is not None else places  # the host takes a mask away that hides nothing
        padded = 0 if shape is None else shape.shape[-1]
        longest = padded if mask is None else int(mask.sum(-1).max())
        refuse_beyond(models, longest + config.max_length - padded)
        refuse_mixed(switches, None if mask is None else mask.sum(-1), config.max_length - padded)
        if config.use_cache is False or not self.is_cached:
            return False
        crosses = grows_beyond(switches, longest, longest + config.max_length - padded, config.prefill_chunk_size)
        if crosses:
            say_rereading(min(switches))
        return crosses

    def _valid_auto_compile_criteria(self, *args: Any, **kwargs: Any) -> bool:
        """Whether steps are read by what ``get_compiled_call`` gives; known since the cache was built."""
        return bool(self._calls) and self._calls[-1].compiled is not None

    def _compiled_step(self, config: Any) -> CompiledStep:
        """The steps compiled as a configuration says, kept for later calls."""
        key = f"{config!r} on {self.sides.policy.device}"
        if key not in self._compiled or self._compiled[key].sides is not self.sides:
            self._compiled[key] = CompiledStep(self.sides, config)
        return self._compiled[key]

    def _get_candidate_generator(self, generation_config: Any, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Let a pair's own draft guess where there is one."""
        if self.draft is None or not self._calls:
            return super()._get_candidate_generator(generation_config, input_ids, *args, **kwargs)
        mask = kwargs["model_kwargs"].get("attention_mask")
        ends = generation_config._eos_token_tensor
        threshold = generation_config.assistant_confidence_threshold
        return DraftReader(
            self.draft,
            padding=0 if mask is None else int((mask[0] == 0).sum()),
            max_length=generation_config.max_length,
            ends=frozenset() if ends is None else frozenset(ends.flatten().tolist()),
            tokens=generation_config.prompt_lookup_num_tokens,
            confidence=CONFIDENCE if threshold is None else threshold,
        )

    def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> Any:
        """Let the running call's watch over non-finite logits end it."""
        criteria = super()._get_stopping_criteria(*args, **kwargs)
        if self._calls:
            criteria.append(self._calls[-1].watch)
        return criteria
