"""``--model aad-vllm``: an aligned pair on vLLM as an lm-eval model, with the model_args and gen_kwargs of ``aad``.

Owns the translation of requests; the engine, tokenising and log-likelihoods stay lm-eval's ``VLLM``. Every request
brings its strategy along, so one engine answers in every way. ``best_of_n`` draws its answers here and picks.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook

from aad_plugin.engine.options import engine_pair, on_gpu, with_users
from aad_plugin.engine.requests import DRAFT_OPTIONS, DRAFTS_DRAW, PENALTIES, extra_args
from aad_plugin.engine.self_test import TOKENS, EngineProof
from aad_plugin.errors import AADError, BackendMissing, ConfigError, first_line
from aad_plugin.files.marks import checkpoint_commit, checkpoint_mark, tokenizer_mark, weight_files_mark
from aad_plugin.files.versions import versions
from aad_plugin.harness.answer_store import Answer, AnswerStore, Stored, stored_of
from aad_plugin.harness.answering import PairAnswers
from aad_plugin.harness.arguments import PairArguments
from aad_plugin.harness.backends import loaded
from aad_plugin.harness.gen_kwargs import vllm_options
from aad_plugin.harness.vllm_host import VLLM
from aad_plugin.harness.vllm_replicas import Replicas, attach, run
from aad_plugin.pair.option_checks import refuse_rescaling
from aad_plugin.pair.pickers import picker_for
from aad_plugin.pair.reading import EXPO
from aad_plugin.pair.rounding import say_dtype
from aad_plugin.pair.sampling import draw_seed
from aad_plugin.settings import SETTING_NAMES, DecodingSettings
from aad_plugin.sources.arguments import take_template_args
from aad_plugin.sources.guides import GuideModel, check_guided
from aad_plugin.texts.rendering import borrow_template
from aad_plugin.texts.thinking import as_decoded, opened_by

logger = logging.getLogger(f"lm_eval.{__name__}")  # shown by lm-eval's own log settings

_ANSWER_ID = "answer_id"
_DRAW_SEED = "draw_seed"
_ENDS = ("stop", "length", "repetition")  # the last where a request asks vLLM to end answers that go round in circles


class AADVLLM(PairAnswers, VLLM):
    """An aligned pair on vLLM behind lm-eval's interface.

    Args:
        **model_args: a pair and decoding settings as for ``aad``; ``loglikelihood`` (policy | reference |
            implicit_reward | expo); ``reference_revision``; ``merge_adapters`` (whether both sides of a LoRA pair are held
            whole); every argument of lm-eval's ``VLLM`` and of vLLM's engine.
    Raises:
        AADError: a mistake in the arguments, or no vLLM; one line says what was expected.
    """

    think_end_token: Any  # lm-eval's, a text

    def __init__(self, pair: str | None = None, pretrained: str | None = None, **model_args: Any) -> None:
        arguments = PairArguments.parse(pair, pretrained, model_args)
        self._arguments = arguments
        self.settings: DecodingSettings = arguments.settings
        reference = dict(arguments.reference_options)
        revision = reference.pop("revision", None)
        if reference or arguments.reference_device:
            named = [f"reference_{name}" for name in reference] or ["reference_device"]
            raise ConfigError(f"{named[0]} does not exist on vLLM: both models share one engine's dtype and devices")
        assert arguments.source is not None
        options = dict(arguments.hflm)
        self._pair = engine_pair(
            arguments.source, self.settings, dtype=str(options.get("dtype", "auto")), revision=options.get("revision"),
            reference_revision=revision, merge_adapters=options.pop("merge_adapters", None),
            load_format=options.get("load_format"), speculative_config=options.get("speculative_config"),
            trust_remote_code=options.get("trust_remote_code") is True,
        )  # fmt: skip
        if arguments.trace:
            raise ConfigError("trace=… is written by --model aad: vLLM keeps no scores of the tokens it did not choose")
        if "gguf_file" in options:
            raise ConfigError("gguf_file is for --model aad; vLLM takes the .gguf file itself as a checkpoint")
        if int(options.get("data_parallel_size", 1)) > 1 and find_spec("ray") is None:
            raise BackendMissing("data_parallel_size needs Ray for its replicas: pip install ray")
        self._asked: dict[str, str | None] = {}
        self._until: dict[str, list[str]] = {}
        self._truncated: dict[str, bool | None] = {}
        self._prompts: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._store: AnswerStore | None = None
        self._chosen: str | None = None
        if options.setdefault("tokenizer", self._pair.tokenizer) == self._pair.model and options.get("revision"):
            options.setdefault("tokenizer_revision", options["revision"])  # as vLLM reads it by itself
        own = dict(self._pair.arguments)
        if self._pair.expo_scale is None:
            own["hf_overrides"] = with_users(own["hf_overrides"], options.pop("hf_overrides", None))
        if options.get("max_length"):  # lm-eval's word for max_model_len
            own.pop("max_model_len", None)
        if not on_gpu():
            # vLLM takes back the noise of a prompt read in parts, which torch's generators on a CPU cannot do.
            options.setdefault("enable_chunked_prefill", False)
        self._has_drafts = any(options.get(name) is not None for name in DRAFT_OPTIONS)
        self._takes_seeds = on_gpu() or not options["enable_chunked_prefill"]
        # One plain model of extrapolated weights decodes as vLLM decodes any model: there is nothing to prove.
        self.proof = self._engine_proof(options) if self._pair.expo_scale is None else None
        template_args = take_template_args(dict(options))
        if "chat_template_args" in options:  # lm-eval takes out of it what it reads
            options["chat_template_args"] = dict(options["chat_template_args"] or {})
        try:
            super().__init__(pretrained=self._pair.model, **{**own, **options})
        except TypeError as e:
            raise ConfigError(f"vLLM does not take these model_args: {e}") from e
        except (RuntimeError, ValueError) as e:
            raise ConfigError(f"vLLM did not start: {first_line(e)} (its log above has the cause)") from e
        if isinstance(self.think_end_token, int):  # lm-eval looks for a text on vLLM
            self.think_end_token = self.tokenizer.decode([self.think_end_token])
        self.chat_template_args = template_args
        borrow_template(self.tokenizer, arguments.source.adapter, arguments.source.base)
        loaded(self)
        if self.data_parallel_size <= 1:
            say_dtype(self.model.model_config.dtype)
        if self.proof is None:
            return
        if self.data_parallel_size <= 1:
            attach(self.model)
        self.proof.hold(self._proving)
        logger.info("self-test against transformers: %s, %.0f s", self.proof.status, self.proof.seconds)

    def _engine_proof(self, options: Mapping[str, Any]) -> EngineProof:
        """What transformers answers, asked before the engine takes the memory; nothing where it passed before."""
        source, given = self._arguments.source, self._arguments.telling
        assert source is not None
        how = {name: given[name] for name in ("revision", "reference_revision", "trust_remote_code") if given.get(name)}
        settings = {
            "alpha": self.settings.alpha,
            **({"guide_scale": self.settings.guide_scale} if source.guides else {}),
        }
        parts = {**source.arguments(), **settings, **how}
        account = {**self._weights_account(), **settings, "versions": versions()}
        return EngineProof(account, parts, str(options.get("dtype", "auto")))

    def _proving(self, rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        from vllm import SamplingParams

        asked = [extra_args(self.settings.override(strategy=row["strategy"])) for row in rows]
        parameters = [SamplingParams(temperature=0, max_tokens=TOKENS, extra_args=one) for one in asked]
        outputs = dict(self._stream([row["ids"] for row in rows], parameters))
        return [list(outputs[number].outputs[0].token_ids) for number in range(len(rows))]

    # ----------------------------------------------------------------- decoding

    @property
    def _own_words(self) -> frozenset[str]:
        return _taken()

    def _answer(self, requests: list[Instance], store: AnswerStore, disable_tqdm: bool) -> list[Answer]:
        self._store = store
        return super()._answer(requests, store, disable_tqdm)

    def _decode(self, requests: list[Instance], disable_tqdm: bool) -> list[Answer]:
        """Answer requests in one go, a best_of_n request as n drawn ones of which the picker's favourite is kept."""
        drawn: list[Instance] = []
        slots: list[list[int | Answer]] = []  # of each request: rows of `drawn`, or what an earlier run drew
        self._asked, self._truncated, self._until, self._prompts, self._tags = {}, {}, {}, {}, {}
        for request in requests:
            settings, sample, options = self._split(request.args[1])
            # Refused before anything is decoded.
            refuse_rescaling(vllm_options(options, _taken()), PENALTIES, settings)
            self._check_weights(settings)
            if settings.samples and not self._takes_seeds:
                raise ConfigError(
                    f"strategy={settings.strategy} draws with a seed, which vLLM cannot do on a CPU while it reads prompts "
                    "in parts: leave enable_chunked_prefill out"
                )
            if (settings.samples or options.get("do_sample")) and self._has_drafts:
                raise ConfigError(
                    f"strategy={settings.strategy} is {DRAFTS_DRAW}: leave {', '.join(DRAFT_OPTIONS)} out"
                )
            many = settings.n if settings.strategy == "best_of_n" else 1
            slots.append([])
            for number in range(sample * many, (sample + 1) * many):
                # Kept on arrival: the answer to a request under its own key, of several draws each as the sample it is.
                key = self._key(*request.args) if many == 1 else self._sample_key(request, number)
                there = self._store.find(key) if many > 1 and key and self._store is not None else None
                slots[-1].append(len(drawn) if there is None else Answer(there.answer, there.truncated))
                if there is None:
                    drawn.append(self._marked(request, settings, number, key))
        texts = VLLM.generate_until(self, drawn, disable_tqdm=disable_tqdm) if drawn else []
        fresh = [
            Answer(self._tags.get(str(row), "") + text, self._truncated.get(str(row))) for row, text in enumerate(texts)
        ]
        candidates = [[one if isinstance(one, Answer) else fresh[one] for one in own] for own in slots]
        answers = [several[0] for several in candidates]
        open_rows = [row for row, several in enumerate(candidates) if len(several) > 1]
        picked = self._pick([requests[row] for row in open_rows], [candidates[row] for row in open_rows])
        for row, answer in zip(open_rows, picked, strict=True):
            answers[row] = answer
            key = self._key(*requests[row].args)
            if key and self._store is not None:
                self._store.add(key, Stored(str(answer), answer.truncated))
        return answers

    def _sample_key(self, request: Instance, sample: int) -> str | None:
        """What a draw of a best_of_n request is kept under: the policy's sample of that number."""
        context, gen_kwargs = request.args
        return self._key(context, {**gen_kwargs, "strategy": "sample", "sample": sample})

    def _check_weights(self, settings: DecodingSettings) -> None:
        """Raise ConfigError for a request that needs other weights than the engine holds."""
        source = self._arguments.source
        assert source is not None
        check_guided(settings, len(source.guides), source.is_alone)
        held, asked = self._pair.expo_scale, settings.strategy == "expo"
        if (held is not None) != asked:
            raise ConfigError(
                f"on vLLM expo is a model of its own: an engine loaded with strategy={self.settings.strategy} does not "
                f"answer strategy={settings.strategy}; give each its own run"
            )
        if asked and settings.expo_scale != held:
            raise ConfigError(
                f"this engine holds expo_scale={held:g}, got a request for {settings.expo_scale:g}: each is a model"
            )

    def _marked(self, request: Instance, settings: DecodingSettings, sample: int, key: str | None) -> Instance:
        """A copy of a request that is found again when its answer arrives."""
        context, gen_kwargs = request.args
        mark = str(len(self._asked))
        marked = copy.copy(request)
        changes = {"strategy": "sample", "sample": sample} if settings.strategy == "best_of_n" else {}
        # Noise belongs to the question here, too: batches, their order and a resumed run then draw the same answers.
        own = {_DRAW_SEED: draw_seed(settings.seed, context, sample)} if settings.samples else {}
        marked.arguments = (context, {**gen_kwargs, **changes, **own, _ANSWER_ID: mark})
        self._asked[mark], self._prompts[mark] = key, context
        return marked

    def modify_gen_kwargs(  # type: ignore[override]
        self, gen_kwargs: dict[str, Any], eos: Any = None, default_max_gen_toks: int = 256
    ) -> tuple[dict[str, Any], list[str], int]:
        """Translate one request: its strategy goes along as ``extra_args``, sampling settings as vLLM's own."""
        plain = dict(gen_kwargs)
        mark, seed = plain.pop(_ANSWER_ID, None), plain.pop(_DRAW_SEED, None)
        settings, _, given = self._split(plain)
        options = vllm_options(given, _taken())
        if settings.strategy == "sample":
            options |= {"temperature": settings.temperature, "top_p": settings.top_p, "do_sample": True}
            settings = settings.override(strategy="greedy")
        elif not options.get("do_sample"):
            options |= {"temperature": 0.0, "do_sample": False}  # vLLM's own default is 1
        kwargs, until, length = VLLM.modify_gen_kwargs(options, eos=eos, default_max_gen_toks=default_max_gen_toks)
        if seed is not None:
            kwargs["seed"] = seed
        if mark is not None:
            self._until[mark] = until  # with thinking, lm-eval hands vLLM the end token alone
        own = {} if self._pair.expo_scale is not None else extra_args(settings)
        kwargs["extra_args"] = {**own, _ANSWER_ID: mark}
        return kwargs, until, length

    def _model_generate(self, requests: Any, generate: bool = False, sampling_params: Any = None) -> Any:
        """Run the engine, or its copies, so that every answer is kept when it arrives."""
        if not generate:
            if self.data_parallel_size <= 1:
                return super()._model_generate(requests, generate, sampling_params)
            from vllm import SamplingParams

            scoring = SamplingParams(temperature=0, prompt_logprobs=1, max_tokens=1, detokenize=False)
            sampling_params = [scoring] * len(requests)
        outputs: dict[int, Any] = {}
        for number, output in self._stream(requests, sampling_params):
            outputs[number] = output
            if generate:
                self._arrived(output, sampling_params[number])
        return [outputs[number] for number in range(len(requests))]

    def _stream(self, prompts: Any, parameters: Any) -> Iterator[tuple[int, Any]]:
        if self.data_parallel_size > 1:
            return self._replicas.answer(prompts, parameters)
        return run(self.model, prompts, parameters)

    def _arrived(self, output: Any, parameters: Any) -> None:
        mark = parameters.extra_args[_ANSWER_ID]
        key, finished = self._asked[mark], output.outputs[0]
        if finished.finish_reason not in _ENDS:
            raise AADError(
                f"vLLM ended a request with {finished.finish_reason!r}, which is no answer (its log has the cause); what "
                "arrived before is kept, and the same command goes on from there"
            )
        is_cut = finished.finish_reason != "stop"
        stored = stored_of(finished.text, self._until[mark], self.think_end_token, is_cut)
        stopped_by = getattr(finished, "stop_reason", None)  # vLLM leaves a stop string out of the text
        whole = finished.text + (stopped_by if isinstance(stopped_by, str) else "")
        tag = opened_by(self._prompts[mark], whole) if stored.answer.strip() else ""
        self._truncated[mark] = stored.truncated
        self._tags[mark] = "" if self.think_end_token and self.think_end_token in whole else tag
        stored = Stored(self._tags[mark] + stored.answer, stored.truncated)
        if key and self._store is not None:
            self._store.add(key, stored)

    def _keep(self, store: AnswerStore) -> Any:
        return lambda context, gen_kwargs, answer: answer  # kept on arrival

    def _pick(self, requests: list[Instance], candidates: list[list[Answer]]) -> list[Answer]:
        """Return each request's favourite among its drawn answers.

        All answers of a run that one picker judges are scored in one call (implicit rewards: one call per model), since
        a call has its own fixed cost and, with replicas, occupies all of them.
        """
        by_picker: dict[str, list[int]] = {}
        for row, request in enumerate(requests):
            by_picker.setdefault(self._split(request.args[1])[0].picker, []).append(row)
        picked: dict[int, Answer] = {}
        for rows in by_picker.values():
            contexts = [requests[row].args[0] for row in rows for _ in candidates[row]]
            settings, _, _ = self._split(requests[rows[0]].args[1])
            rewards = iter(self._rewards(settings, contexts, [text for row in rows for text in candidates[row]]))
            for row in rows:
                own = [next(rewards) for _ in candidates[row]]
                picked[row] = candidates[row][max(range(len(own)), key=own.__getitem__)]
        return [picked[row] for row in range(len(requests))]

    def _rewards(self, settings: DecodingSettings, contexts: list[str], answers: list[Answer]) -> list[float]:
        """Return one number per (rendered prompt, answer): larger is better."""
        picker = picker_for(settings)
        if picker is not None:
            return list(picker([self._chats.get(context, context) for context in contexts], answers))
        asked = [(context, as_decoded(context, str(text))) for context, text in zip(contexts, answers, strict=True)]
        encoded = [((context, text), *self._encode_pair(context, text)) for context, text in asked]
        scored = {role: self._scores(role, encoded) for role in ("policy", "reference")}
        pairs = zip(scored["policy"], scored["reference"], strict=True)
        return [policy[0] - reference[0] for policy, reference in pairs]

    # ------------------------------------------------------------------ scoring

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:  # type: ignore[override]
        """Score continuations by the chosen model; the implicit reward is the policy's score minus the reference's."""
        choice = self._arguments.loglikelihood
        if choice != "implicit_reward":
            return self._scores(choice, requests, is_answer=True, **kwargs)
        scored = {role: self._scores(role, requests, **kwargs) for role in ("policy", "reference")}
        pairs = zip(scored["policy"], scored["reference"], strict=True)
        return [(policy - reference, greedy) for (policy, greedy), (reference, _) in pairs]

    def _scores(self, role: str, requests: Any, is_answer: bool = False, **kwargs: Any) -> list[tuple[float, bool]]:
        """Log-likelihoods by one model: prompt log-probabilities are read off the engine's default scores.

        Args:
            is_answer: whether they are what was asked for, which lm-eval's cache may keep, or a part of it.
        """
        plain = self._pair.expo_scale is not None
        if plain and role != EXPO:
            raise ConfigError(
                f"loglikelihood={role} is the {role}'s, and with strategy=expo vLLM holds the extrapolated model alone: "
                "leave loglikelihood out, or strategy=expo"
            )
        if role == EXPO and not plain:
            raise ConfigError(
                "loglikelihood=expo is the extrapolated model's, which a pair's engine does not hold: pass strategy=expo"
            )
        if plain:
            return super()._loglikelihood_tokens(requests, disable_tqdm=kwargs.get("disable_tqdm", True))
        strategy = "greedy" if role == "policy" else "reference"
        before = self.settings.strategy if self.settings.ranks_ratios else "greedy"
        hook = self.cache_hook
        self._default(strategy)
        try:
            self.cache_hook = hook if is_answer else CacheHook(None)
            return super()._loglikelihood_tokens(requests, disable_tqdm=kwargs.get("disable_tqdm", True))
        finally:
            self.cache_hook = hook
            self._default(before)

    def _default(self, strategy: str) -> None:
        call = self._replicas.call if self.data_parallel_size > 1 else self._rpc
        call("aad_set", {"strategy": strategy})

    def _rpc(self, method: str, *args: Any) -> list[Any]:
        return self.model.collective_rpc(method, args=args)

    @functools.cached_property
    def _replicas(self) -> Replicas:
        """Copies of the engine, started on first use; GPUs are asked for only where there are some."""
        import torch

        gpus = self.tensor_parallel_size if torch.cuda.is_available() else 0
        return Replicas(self.model_args, self.data_parallel_size, gpus)

    # ------------------------------------------------------------ bookkeeping

    def model_account(self) -> dict[str, Any]:
        """Return what tells this model from another: parts, files, every option that can change an answer, versions."""
        assert self._arguments.source is not None
        return {
            **self._weights_account(),
            "guides": [guide.account(_marked_weights) for guide in self._arguments.source.guides],
            "tokenizer": tokenizer_mark(self.tokenizer),
            "dtype": str(self.model_args.get("dtype")),
            "quantization": self.model_args.get("quantization"),
            "max_length": self.max_length,
            "max_gen_toks": self.max_gen_toks,
            "add_bos_token": self.add_bos_token,
            **({"thinking": "ends by its mark alone"} if self.think_end_token is not None else {}),
            "versions": versions(),
        }

    def _weights_account(self) -> dict[str, Any]:
        """What is known of the pair before an engine holds it."""
        assert self._arguments.source is not None
        own = self._pair.arguments.get("hf_overrides", {}).get("aad", {})
        given = self._arguments.telling
        both = None if self._arguments.source.shares_base else given.get("revision")
        revisions = [given.get("revision"), given.get("reference_revision") or both]
        marked = itertools.zip_longest(self._pair.checkpoints, revisions[: len(self._pair.checkpoints)])
        return {
            "engine": "vllm",
            "pair": self._arguments.source.preset,
            "parts": self._arguments.source.parts(),
            "reference_proof": self._arguments.source.proof,
            "checkpoints": [checkpoint_mark(part, revision) for part, revision in marked],
            "arguments": given,
            # Which parts the engine holds whole; strategy and its strength come with each request.
            "engine_pair": {name: value for name, value in own.items() if name not in SETTING_NAMES},
            **({} if self._pair.expo_scale is None else {"expo_scale": self._pair.expo_scale}),
        }

    def get_model_info(self) -> dict[str, Any]:
        """Add the pair and its decoding settings to the results file."""
        base = super().get_model_info() if hasattr(VLLM, "get_model_info") else {}
        account = {**self.model_account(), "loglikelihood": self._arguments.loglikelihood}
        account.pop("checkpoints")
        account["self_test"] = self.proof.status if self.proof is not None else "a plain model, nothing to test"
        return {**base, "aad": account}


def _marked_weights(model: GuideModel) -> dict[str, Any]:
    """What tells a guide's weights from others under its name."""
    return {
        "revision": model.revision or checkpoint_commit(model.path),
        "weights": weight_files_mark(model.path, model.revision),
        **({} if model.base is None else {"base_weights": weight_files_mark(model.base)}),
    }


@functools.cache
def _taken() -> frozenset[str]:
    """The names of vLLM's sampling parameters, but for those that lm-eval and this package set from other options."""
    from vllm import SamplingParams

    return frozenset(inspect.signature(SamplingParams).parameters) - {"stop", "extra_args", "output_kind"}
