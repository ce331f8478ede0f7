"""``--model aad-vllm``: an aligned pair on vLLM as an lm-eval model, with the model_args and gen_kwargs of ``aad``.

Owns the translation of requests; the engine, tokenising and log-likelihoods stay lm-eval's ``VLLM``. Every request
brings its strategy along, so one engine answers in every way. ``best_of_n`` draws its answers here and picks.
"""

from __future__ import annotations

import copy
import functools
import logging
from importlib.util import find_spec
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import postprocess_generated_text

from aad_plugin.engine.checkpoints import checkpoint_mark
from aad_plugin.engine.options import engine_pair, with_users
from aad_plugin.engine.requests import extra_args
from aad_plugin.errors import BackendMissing, ConfigError
from aad_plugin.harness.answer_store import AnswerStore, Stored, record_end
from aad_plugin.harness.answering import PairAnswers
from aad_plugin.harness.arguments import PairArguments
from aad_plugin.harness.backends import loaded
from aad_plugin.harness.vllm_host import VLLM
from aad_plugin.harness.vllm_replicas import Replicas, run
from aad_plugin.pickers import picker_for
from aad_plugin.provenance import versions
from aad_plugin.sampling import draw_seed
from aad_plugin.settings import DecodingSettings

__all__ = ["AADVLLM"]

logger = logging.getLogger(f"lm_eval.{__name__}")  # shown by lm-eval's own log settings

_ANSWER_ID = "answer_id"
_DRAW_SEED = "draw_seed"


class AADVLLM(PairAnswers, VLLM):
    """An aligned pair on vLLM behind lm-eval's interface.

    Args:
        **model_args: a pair and decoding settings as for ``aad``; ``loglikelihood`` (policy | reference |
            implicit_reward); ``reference_revision``; ``merge_adapters`` (whether both sides of a LoRA pair are held
            whole); every argument of lm-eval's ``VLLM`` and of vLLM's engine.
    Raises:
        AADError: a mistake in the arguments, or no vLLM; one line says what was expected.
    """

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
            arguments.source, self.settings, dtype=str(options.get("dtype", "auto")), reference_revision=revision,
            merge_adapters=options.pop("merge_adapters", None),
        )  # fmt: skip
        if arguments.trace:
            raise ConfigError("trace=… is written by --model aad: vLLM keeps no scores of the tokens it did not choose")
        if "gguf_file" in options:
            raise ConfigError("gguf_file is for --model aad; vLLM takes the .gguf file itself as a checkpoint")
        if int(options.get("data_parallel_size", 1)) > 1 and find_spec("ray") is None:
            raise BackendMissing("data_parallel_size needs Ray for its replicas: pip install ray")
        self._asked: dict[str, tuple[Instance, str | None]] = {}
        self._store: AnswerStore | None = None
        self._chosen: str | None = None
        options.setdefault("tokenizer", self._pair.tokenizer)
        own = dict(self._pair.arguments)
        own["hf_overrides"] = with_users(own["hf_overrides"], options.pop("hf_overrides", None))
        if options.get("max_length"):  # lm-eval's word for max_model_len
            own.pop("max_model_len", None)
        try:
            super().__init__(pretrained=self._pair.model, **{**own, **options})
        except TypeError as e:
            raise ConfigError(f"vLLM does not take these model_args: {e}") from e
        except (RuntimeError, ValueError) as e:
            raise ConfigError(f"vLLM did not start: {str(e).splitlines()[0]} (its log above has the cause)") from e
        if self.data_parallel_size <= 1 and not all(self.model.collective_rpc("aad_attach")):
            raise ConfigError(
                "vLLM holds no pair, or its runner does not show its requests: set VLLM_USE_V2_MODEL_RUNNER=0"
            )
        loaded(self)

    # ----------------------------------------------------------------- decoding

    def _answer(self, requests: list[Instance], store: AnswerStore, disable_tqdm: bool) -> list[str]:
        self._store = store
        return super()._answer(requests, store, disable_tqdm)

    def _decode(self, requests: list[Instance], disable_tqdm: bool) -> list[str]:
        """Answer requests in one go, a best_of_n request as n drawn ones of which the picker's favourite is kept."""
        drawn: list[Instance] = []
        spans = []
        self._asked = {}
        for request in requests:
            settings, sample, _ = self._split(request.args[1])
            many = settings.n if settings.strategy == "best_of_n" else 1
            spans.append(range(len(drawn), len(drawn) + many))
            for number in range(many):
                # What arrives is kept under the request's own key; of drawn answers only the picked one is.
                key = self._key(*request.args) if many == 1 else None
                drawn.append(self._marked(request, settings, sample * many + number, key))
        texts = super()._decode(drawn, disable_tqdm)
        answers = []
        for request, span in zip(requests, spans, strict=True):
            candidates = [texts[row] for row in span]
            answers.append(candidates[0] if len(span) == 1 else self._pick(request, candidates))
        return answers

    def _marked(self, request: Instance, settings: DecodingSettings, sample: int, key: str | None) -> Instance:
        """A copy of a request that is found again when its answer arrives."""
        context, gen_kwargs = request.args
        mark = str(len(self._asked))
        marked = copy.copy(request)
        changes = {"strategy": "sample", "sample": sample} if settings.strategy == "best_of_n" else {}
        # Noise belongs to the question here, too: batches, their order and a resumed run then draw the same answers.
        own = {_DRAW_SEED: draw_seed(settings.seed, context, sample)} if settings.samples else {}
        marked.arguments = (context, {**gen_kwargs, **changes, **own, _ANSWER_ID: mark})
        self._asked[mark] = (request, key)
        return marked

    def modify_gen_kwargs(  # type: ignore[override]
        self, gen_kwargs: dict[str, Any], eos: Any = None, default_max_gen_toks: int = 256
    ) -> tuple[dict[str, Any], list[str], int]:
        """Translate one request: its strategy goes along as ``extra_args``, sampling settings as vLLM's own."""
        plain = dict(gen_kwargs)
        mark, seed = plain.pop(_ANSWER_ID, None), plain.pop(_DRAW_SEED, None)
        settings, _, options = self._split(plain)
        if settings.strategy == "sample":
            options |= {"temperature": settings.temperature, "top_p": settings.top_p, "do_sample": True}
            settings = settings.override(strategy="greedy")
        elif not options.get("do_sample"):
            options |= {"temperature": 0.0, "do_sample": False}  # vLLM's own default is 1
        if "min_new_tokens" in options:
            options["min_tokens"] = options.pop("min_new_tokens")  # transformers' word, vLLM's word
        kwargs, until, length = VLLM.modify_gen_kwargs(options, eos=eos, default_max_gen_toks=default_max_gen_toks)
        if seed is not None:
            kwargs["seed"] = seed
        kwargs["extra_args"] = {**extra_args(settings), _ANSWER_ID: mark}
        return kwargs, until, length

    def _model_generate(self, requests: Any, generate: bool = False, sampling_params: Any = None) -> Any:
        """Run the engine, or its copies, so that every answer is kept when it arrives."""
        if not generate:
            if self.data_parallel_size <= 1:
                return super()._model_generate(requests, generate, sampling_params)
            from vllm import SamplingParams

            scoring = SamplingParams(temperature=0, prompt_logprobs=1, max_tokens=1, detokenize=False)
            sampling_params = [scoring] * len(requests)
        stream = self._replicas.answer if self.data_parallel_size > 1 else functools.partial(run, self.model)
        outputs: dict[int, Any] = {}
        for number, output in stream(requests, sampling_params):
            outputs[number] = output
            if generate:
                self._arrived(output, sampling_params[number])
        return [outputs[number] for number in range(len(requests))]

    def _arrived(self, output: Any, parameters: Any) -> None:
        request, key = self._asked[parameters.extra_args[_ANSWER_ID]]
        finished = output.outputs[0]
        settings, _, _ = self._split(request.args[1])
        truncated = finished.finish_reason == "length"
        record_end(request.args[0], settings, truncated)
        if key and self._store is not None:
            text = postprocess_generated_text(finished.text, parameters.stop, self.think_end_token)
            self._store.add(key, Stored(text, truncated))

    def _keep(self, store: AnswerStore) -> Any:
        return lambda context, gen_kwargs, answer: None  # kept on arrival

    def _pick(self, request: Instance, candidates: list[str]) -> str:
        context, gen_kwargs = request.args
        settings, _, _ = self._split(gen_kwargs)
        picker = picker_for(settings)
        if picker is not None:
            rewards = list(picker([self._chats.get(context, context)] * len(candidates), candidates))
        else:
            encoded = [((context, text), *self._encode_pair(context, text)) for text in candidates]
            scored = {role: self._scores(role, encoded) for role in ("policy", "reference")}
            pairs = zip(scored["policy"], scored["reference"], strict=True)
            rewards = [policy[0] - reference[0] for policy, reference in pairs]
        best = candidates[max(range(len(candidates)), key=lambda row: rewards[row])]
        key = self._key(context, gen_kwargs)
        if key and self._store is not None:
            self._store.add(key, Stored(best, None))
        return best

    # ------------------------------------------------------------------ scoring

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:  # type: ignore[override]
        """Score continuations by the chosen model; the implicit reward is the policy's score minus the reference's."""
        choice = self._arguments.loglikelihood
        if choice != "implicit_reward":
            return self._scores(choice, requests, **kwargs)
        scored = {role: self._scores(role, requests, **kwargs) for role in ("policy", "reference")}
        pairs = zip(scored["policy"], scored["reference"], strict=True)
        return [(policy - reference, greedy) for (policy, greedy), (reference, _) in pairs]

    def _scores(self, role: str, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        """Log-likelihoods by one model: prompt log-probabilities are read off the engine's default scores."""
        strategy = "greedy" if role == "policy" else "reference"
        before = self.settings.strategy if self.settings.needs_reference else "greedy"
        self._default(strategy)
        try:
            return super()._loglikelihood_tokens(requests, disable_tqdm=kwargs.get("disable_tqdm", True))
        finally:
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
        """Return what tells this model from another."""
        assert self._arguments.source is not None
        return {
            "engine": "vllm",
            "pair": self._arguments.source.preset,
            "parts": self._arguments.source.parts(),
            "reference_proof": self._arguments.source.proof,
            "checkpoints": [checkpoint_mark(part) for part in self._pair.checkpoints],
            "dtype": str(self.model_args.get("dtype")),
            "quantization": self.model_args.get("quantization"),
            "max_length": self.max_length,
            "add_bos_token": self.add_bos_token,
            "versions": versions(),
        }

    def get_model_info(self) -> dict[str, Any]:
        """Add the pair and its decoding settings to the results file."""
        base = super().get_model_info() if hasattr(VLLM, "get_model_info") else {}
        account = {**self.model_account(), "loglikelihood": self._arguments.loglikelihood}
        account.pop("checkpoints")
        return {**base, "aad": account}
