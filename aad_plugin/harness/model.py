"""``--model aad``: an aligned pair as an lm-eval model.

Owns the translation of model_args and gen_kwargs; tokenising, batching, chat templates, device placement and
quantisation stay lm-eval's ``HFLM``. Decoding is ``strategies.decode``.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, cast

import torch
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.quantizers import AutoQuantizationConfig

from aad_plugin.errors import ConfigError, first_line
from aad_plugin.files.marks import tokenizer_mark
from aad_plugin.harness.answering import PairAnswers
from aad_plugin.harness.arguments import PairArguments, loading_args
from aad_plugin.harness.backends import loaded
from aad_plugin.harness.gen_kwargs import split_gen_kwargs
from aad_plugin.pair.account import describe
from aad_plugin.pair.loading import assemble
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.multimodal import MultimodalInputs
from aad_plugin.pair.pickers import picker_for
from aad_plugin.pair.reading import EXPO, Role
from aad_plugin.pair.recorder import Reading
from aad_plugin.pair.rope_switch import rope_switches
from aad_plugin.pair.step import Step
from aad_plugin.pair.stopping import BehindThinking, end_ids
from aad_plugin.pair.strategies import decode
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.known_options import safetensors_only
from aad_plugin.sources.parts import PairSource
from aad_plugin.sources.whole_weights import whole
from aad_plugin.texts.thinking import opened_by, opening_tag

logger = logging.getLogger(f"lm_eval.{__name__}")  # shown by lm-eval's own log settings

# `batch_size=auto` probes by running out of memory, which on CPU means swapping; 16 rows saturate a few cores.
_CPU_BATCH_SIZE = 16


class AADLM(PairAnswers, HFLM):
    """An aligned pair behind lm-eval's interface.

    Args:
        **model_args: a pair (pair=… | policy=… reference=… | reference=… adapter=… | base=… reference_adapter=…
            adapter=…), guides (guide, guide_reference), decoding settings (strategy, alpha, n, picker, eft_scale,
            guide_scale, guide_top_k, cd_alpha, cd_beta, noise_step, temperature, top_p, seed), ``loglikelihood`` (policy |
            reference | implicit_reward | expo), reference_device / _dtype / _revision / _gguf_file / _trust_remote_code,
            ``answers_dir``, ``trace`` (folder), and every argument of ``HFLM``.
    Raises:
        AADError: a mistake in the arguments; one line says what was expected.
    """

    hosts: tuple[type, ...] = (HFLM,)  # lm-eval's classes whose arguments are known
    # Set by HFLM.
    _device: torch.device
    _model: Any
    _world_size: int
    cache_hook: CacheHook
    # What the batch that is about to be decoded shows besides text.
    _multimodal: MultimodalInputs | None = None
    think_end_token: str | int | None

    def __init__(self, pair: str | None = None, pretrained: str | AlignedPair | None = None, **model_args: Any) -> None:
        self.truncated_prompts = 0
        self._contexts: list[str] = []
        self._ends: dict[str, bool] = {}
        self._tags: dict[str, str] = {}
        self._scorer: Role = "policy"
        self._probing = self._measuring = False
        if isinstance(pretrained, AlignedPair):
            self._arguments = PairArguments.for_loaded(pretrained, model_args)
            pretrained.shortcuts = self._arguments.shortcuts
            if pretrained.proof is None:
                pretrained.prove()
            super().__init__(pretrained=pretrained, tokenizer=pretrained.tokenizer, **self._arguments.hflm)
        else:
            self._arguments = PairArguments.parse(pair, pretrained, model_args)
            super().__init__(pretrained=self._source.backbone, **self._arguments.hflm)
        self.settings: DecodingSettings = self._arguments.settings
        if isinstance(self.think_end_token, str):
            self.think_end_token = _id_of_hidden(self.think_end_token, self.tokenizer)
        self._join_processes()
        loaded(self)

    @property
    def _source(self) -> PairSource:
        """Where the pair comes from, for a pair this model loads itself."""
        assert self._arguments.source is not None
        return self._arguments.source

    # ------------------------------------------------------------------ loading

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **options: Any) -> None:
        source = self._arguments.source
        if not tokenizer and source is not None:
            home = source.tokenizer_at(options.get("revision"))
            tokenizer = home if home != source.backbone else tokenizer
        try:
            # Not super()'s: lm-eval's class for pictures reads tokenizer= as a processor, and leaves it aside.
            HFLM._create_tokenizer(self, pretrained, tokenizer, **options)
        except (ImportError, OSError, ValueError) as e:
            raise ConfigError(f"no tokenizer at {tokenizer or pretrained!r}: {first_line(e)}") from e

    def _get_config(self, pretrained: str, **options: Any) -> None:
        try:
            super()._get_config(pretrained, **options)
        except (ImportError, OSError, ValueError) as e:
            raise ConfigError(f"cannot read a model at {pretrained!r}: {first_line(e)}") from e
        self._arguments.check_unknown(self._config, self.hosts)

    def _get_backend(self, *args: Any, **options: Any) -> None:
        super()._get_backend(*args, **options)
        if self.AUTO_MODEL_CLASS is AutoModelForSeq2SeqLM:
            raise ConfigError(
                f"{self._source.backbone!r} is an encoder-decoder ({self._config.model_type}): expected two causal "
                "language models, which read prompt and answer as one text"
            )

    def _create_model(self, pretrained: str, **options: Any) -> None:
        arguments = self._arguments
        own = {"policy": options, "reference": {**options, **arguments.reference_options}}
        if not self._source.shares_base and "quantization_config" not in arguments.hflm:
            # HFLM hands on what the policy's configuration says, which would read a reference quantised otherwise wrongly.
            own["reference"]["quantization_config"] = self._reference_quantization(own["reference"])
        home = self._device

        def load_model(path: str, role: Role) -> Any:
            device = arguments.reference_device if role == "reference" else None
            self._device = torch.device(device) if device else home
            try:
                # A copy, since HFLM adds its device map to the keyword arguments it is given.
                named = safetensors_only(path, own[role])
                told = not (named.get("autogptq") or named.get("gptqmodel"))  # other readers, which tell nothing
                super(AADLM, self)._create_model(
                    pretrained=path, **named, **({"output_loading_info": True} if told else {})
                )
                if told:
                    self._model = whole(self._model, path)
            except ConfigError:
                raise
            except (ImportError, OSError, ValueError, TypeError, RuntimeError, AssertionError) as e:
                raise ConfigError(f"cannot load {role} {path!r}: {first_line(e)}") from e
            finally:
                self._device = home
            return self._model.eval()

        source = self._source
        logger.info("reference: %s (%s)", source.reference or source.reference_adapter or source.base, source.proof)
        parts = assemble(
            source,
            load_model,
            settings=arguments.settings,
            tokenizer=self.tokenizer,
            reference_tokenizer=self._reference_tokenizer(own["reference"]),
            adapter_revision=options.get("revision"),
            reference_revision=own["reference"].get("revision"),
            shortcuts=arguments.shortcuts,
            draft_model=arguments.draft_model,
            pickles=options.get("use_safetensors") is False,
            processor=getattr(self, "processor", None),
        )
        self._model = AlignedPair.from_parts(replace(parts, loaded_with=loading_args(arguments.telling, self.hosts)))

    def _reference_quantization(self, options: dict[str, Any]) -> Any:
        named = {name: options[name] for name in ("revision", "gguf_file", "trust_remote_code") if options.get(name)}
        try:
            config = AutoConfig.from_pretrained(str(self._source.reference), **named)
            found = getattr(config, "quantization_config", None)
            return AutoQuantizationConfig.from_dict(found) if isinstance(found, dict) else found
        except (ImportError, OSError, ValueError) as e:
            raise ConfigError(f"cannot read a model at {self._source.reference!r}: {first_line(e)}") from e

    def _reference_tokenizer(self, options: dict[str, Any]) -> Any:
        if self._source.shares_base:
            return self.tokenizer
        named = {name: options[name] for name in ("revision", "gguf_file", "trust_remote_code") if options.get(name)}
        try:
            return AutoTokenizer.from_pretrained(self._source.reference, **named)
        except (ImportError, OSError, ValueError) as e:
            raise ConfigError(f"no tokenizer at reference {self._source.reference!r}: {first_line(e)}") from e

    def _join_processes(self) -> None:
        """Take rank and world size from accelerate where HFLM, which looks at GPUs only, left them at one process."""
        accelerator = getattr(self, "accelerator", None)
        if accelerator is not None and accelerator.num_processes > 1 and self._world_size == 1:
            self._rank = accelerator.process_index
            self._world_size = accelerator.num_processes
            logger.info("process %d of %d on %s", self._rank + 1, self._world_size, accelerator.device)

    # ----------------------------------------------------------------- decoding

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], attention_mask: Tensor | None = None, **gen_kwargs: Any
    ) -> Tensor:
        settings, sample, options = split_gen_kwargs(gen_kwargs, self.settings)
        mask = torch.ones_like(context) if attention_mask is None else attention_mask
        if not bool(mask.any(-1).all()):
            raise ConfigError("a prompt is empty: expected text to answer (is the task's doc_to_text empty?)")
        prompts = [self._chats.get(text, text) for text in self._contexts]
        readings: list[Reading] = []
        with self._autocast():
            tokens = decode(
                self.model,
                context,
                mask,
                settings,
                multimodal=self._multimodal,
                stop=stop,
                thinking_end=self.think_end_token,
                sample=sample,
                picker=picker_for(settings, shows_pictures=self._multimodal is not None),
                prompts=prompts,
                rendered=[self._as_asked(one) for one in self._contexts],
                on_readings=None if self._tracer is None else readings.extend,
                **{"max_length": max_length, "pad_token_id": self.tokenizer.pad_token_id, **options},
            )
        if self._tracer is not None:
            self._tracer.decoded(self._contexts, settings, sample, readings)
        ends = options.get("eos_token_id", self.model.generation_config.eos_token_id)
        answers = tokens[:, context.shape[1] :]
        self._ends = dict(zip(self._contexts, self._truncated(answers, stop, ends), strict=True))
        rows = ((one, self._as_asked(one), row) for one, row in zip(self._contexts, answers, strict=True))
        self._tags = {one: opened_by(said, self.tokenizer.decode(row)) for one, said, row in rows if opening_tag(said)}
        return tokens

    def _truncated(self, answers: Tensor, stop: list[str], ends: int | list[int] | None) -> list[bool]:
        """Whether each answer of a batch ran into its budget: no end token and no stop sequence.

        Args:
            answers: (B, new) token ids, of the picked answers where several were drawn. ends: the end tokens.
        """
        rows, ids = answers.tolist(), set(end_ids(ends))
        if self.think_end_token is None:
            texts = self.tokenizer.batch_decode(rows)
            stopped = [any(sequence in text for sequence in stop if sequence) for text in texts]
        else:
            behind = BehindThinking(self.think_end_token, stop, self.tokenizer)
            stopped = [behind.length(row) is not None for row in rows]
        return [ids.isdisjoint(row) and not has_stopped for row, has_stopped in zip(rows, stopped, strict=True)]

    def _ended(self, context: str) -> bool | None:
        return self._ends.get(context)

    def _opened(self, context: str) -> str:
        return self._tags.get(context, "")

    # ------------------------------------------------------------------ scoring

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Return (B, T, V) logits of the model that scores choices."""
        probed = self.model.guides.roles if self.settings.strategy == "guided" else ("policy", "reference")
        roles: tuple[Role, ...] = probed if self._probing else (self._scorer,)
        switches = rope_switches(self.model.sides.models().values())
        if len(inps) > 1 and not self._measuring and any(switch < inps.shape[1] for switch in switches):
            raise ConfigError(  # rows are padded behind their ends, which nothing marks
                f"this model's rotary factors change at {min(switches)} tokens, for all rows of a batch at once, and a "
                f"text here has {inps.shape[1]}: pass batch_size=1"
            )
        with torch.no_grad(), self._autocast():
            return self.model.sides.logits(roles, Step(inps))[0]

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        """Score continuations by the chosen model; the implicit reward is the policy's score minus the reference's.

        ``is_greedy`` of an implicit reward is the policy's.
        """
        if self._arguments.loglikelihood != "implicit_reward":
            self._scorer = cast(Role, self._arguments.loglikelihood)
            if self._scorer == EXPO:
                self.model.sides.extrapolate(self.settings.expo_scale)
            return super()._loglikelihood_tokens(requests, **kwargs)
        hook, self.cache_hook = self.cache_hook, CacheHook(None)
        try:
            scored = {}
            roles: tuple[Role, ...] = ("policy", "reference")
            for self._scorer in roles:
                scored[self._scorer] = super()._loglikelihood_tokens(requests, **kwargs)
        finally:
            self.cache_hook = hook
        pairs = zip(scored["policy"], scored["reference"], strict=True)
        return [(policy - reference, greedy) for (policy, greedy), (reference, _) in pairs]

    def _autocast(self) -> torch.autocast:
        dtype = self.mixed_precision_dtype
        return torch.autocast(device_type=self.device.type, dtype=dtype, enabled=dtype is not None)

    # ------------------------------------------------------------------ HFLM's seams

    def tok_batch_encode(self, strings: Any, *args: Any, left_truncate_len: int | None = None, **kwargs: Any) -> Any:
        """Encode as HFLM does; remember the texts for pickers and count the prompts that lost their beginning."""
        self._contexts = list(strings)
        if left_truncate_len:
            lengths = [len(ids) for ids in self.tokenizer(self._contexts, add_special_tokens=False)["input_ids"]]
            self.truncated_prompts += sum(length > left_truncate_len for length in lengths)
        return super().tok_batch_encode(strings, *args, left_truncate_len=left_truncate_len, **kwargs)

    def _detect_batch_size(self, requests: Any = None, pos: int = 0) -> int:
        if self.device.type != "cpu":
            # What decoding holds is two models' activations, so that is what has to fit.
            self._probing, self._measuring = self.settings.ranks_ratios, True
            try:
                return super()._detect_batch_size(requests, pos)
            finally:
                self._probing = self._measuring = False
        size = min(_CPU_BATCH_SIZE, self.max_batch_size)
        logger.info("batch_size=auto on CPU: fixed at %d", size)
        return size

    # ------------------------------------------------------------ bookkeeping

    def model_account(self) -> dict[str, Any]:
        """Return what tells this model from another: parts, revisions, dtypes, weights, options, versions."""
        account = {name: value for name, value in describe(self.model).items() if name != "settings"}
        return {
            **account,
            "arguments": self._arguments.telling,
            "shortcuts": self.model.shortcuts,
            "tokenizer": tokenizer_mark(self.tokenizer),
            "max_length": self.max_length,
            "max_gen_toks": self.max_gen_toks,
            "add_bos_token": self.add_bos_token,
            **({"thinking": "ends by its mark alone"} if self.think_end_token is not None else {}),
        }

    def get_model_info(self) -> dict[str, Any]:
        """Add the pair, its decoding settings, revisions, dtypes and versions to the results file."""
        pair = {
            **describe(self.model),
            "arguments": self._arguments.telling,
            "loglikelihood": self._arguments.loglikelihood,
            "truncated_prompts": self.truncated_prompts,
            **self.folders_account(),
        }
        return {**super().get_model_info(), "aad": pair}


def _id_of_hidden(mark: str, tokenizer: Any) -> str | int:
    """A mark as it is, or its id where it is a token that lm-eval's decoding leaves out, so that no text would hold it."""
    number = tokenizer.convert_tokens_to_ids(mark)
    is_token = isinstance(number, int) and tokenizer.convert_ids_to_tokens(number) == mark
    return number if is_token and mark not in tokenizer.decode([number], skip_special_tokens=True) else mark
