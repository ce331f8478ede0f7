"""What both backends of this package add to their host's ``generate_until``: settings, kept answers, several turns.

A mixin before the host class (lm-eval's HFLM or VLLM), whose own ``generate_until`` does the decoding and calls its
cache hook with every answer as it arrives.
"""

from __future__ import annotations

import collections
import copy
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook

from aad_plugin.harness.answer_store import Answer, AnswerStore, Stored, answers_folder, request_key
from aad_plugin.harness.arguments import PairArguments
from aad_plugin.harness.cache import keyed_cache_hook, never_store
from aad_plugin.harness.gen_kwargs import split_gen_kwargs
from aad_plugin.harness.tracing import RunTracer
from aad_plugin.harness.turns import FOLLOW_UPS, answer_in_turns
from aad_plugin.settings import DecodingSettings
from aad_plugin.texts.rendering import settled
from aad_plugin.texts.thinking import opening_tag

logger = logging.getLogger(f"lm_eval.{__name__}")  # shown by lm-eval's own log settings


class PairAnswers:
    """Mixin for an lm-eval model; the class sets ``settings`` and ``_arguments`` and gives `model_account`."""

    settings: DecodingSettings
    cache_hook: CacheHook
    tokenizer: Any
    rank: int
    world_size: int
    _arguments: PairArguments
    _tracer: RunTracer | None = None

    def model_account(self) -> dict[str, Any]:
        """Return what tells this model from another: parts, revisions, dtypes, weights, versions; no settings."""
        raise NotImplementedError

    def folders_account(self) -> dict[str, str]:
        """Where this run's traces are, for lm-eval's results; empty without."""
        trace = self._arguments.trace
        return {"trace": str(Path(trace).resolve())} if trace else {}

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answer requests; each may name its own strategy in gen_kwargs, and repeats draw different samples."""
        numbered = _number_repeats(requests, self._draws)
        for request in (*requests, *numbered):  # a typo fails now, before anything is decoded
            if self._is_drawn_anew(request):
                never_store(self.cache_hook, request.args)
        self._say_how_drawn(requests)
        fingerprint = DecodingSettings().fingerprint(model=self.model_account())
        store = AnswerStore(answers_folder(self._arguments.answers_dir, fingerprint), self.rank)
        if self._arguments.trace and self._tracer is None:
            self._tracer = RunTracer(self._arguments.trace, fingerprint, self.model_account(), self.rank)

        def answer(turn: list[Instance]) -> list[Answer]:
            return self._answer(turn, store, disable_tqdm)

        return list(answer_in_turns(numbered, answer, self._next_context))

    def _say_how_drawn(self, requests: list[Instance]) -> None:
        """Warn once of requests whose options mean something else than their task's author may have meant."""
        asked = [self._split(request.args[1]) for request in requests]
        odd = {s.strategy for s, _, options in asked if options.get("do_sample") and s.ranks_ratios}
        if odd:
            logger.warning(
                "requests with do_sample or a temperature draw from softmax(scores / temperature), and the scores of %s "
                "are no log-probabilities: pass do_sample=false for its answers, strategy=sample for the policy's samples",
                ", ".join(sorted(odd)),
            )
        hot = {s.temperature for s, _, _ in asked if s.samples}
        if hot and any(r.args[1].get("temperature") == 0 and self._draws(r) for r in requests):
            logger.warning(
                "temperature=0 of a task says nothing to strategies that sample: answers are drawn at temperature %s",
                ", ".join(f"{value:g}" for value in sorted(hot)),
            )

    def _answer(self, requests: list[Instance], store: AnswerStore, disable_tqdm: bool) -> list[Answer]:
        """Answer what the store does not know yet, keeping each answer as it arrives."""
        keys = [self._key(*request.args) for request in requests]
        open_rows = [row for row, key in enumerate(keys) if key is None or not self._is_known(key, store)]
        if self._tracer is not None:
            self._tracer.expect(keys, requests)
        self._arrived_answers.clear()
        hook, self.cache_hook = self.cache_hook, _Keeping(self.cache_hook, self._keep(store))
        try:
            fresh = self._decode([requests[row] for row in open_rows], disable_tqdm) if open_rows else []
        finally:
            self.cache_hook = hook
            if self._tracer is not None:
                self._tracer.finish()
        answers = dict(zip(open_rows, fresh, strict=True))
        for row, key in enumerate(keys):
            if row not in answers:
                stored = store.find(cast(str, key))
                assert stored is not None
                answers[row] = Answer(stored.answer, stored.truncated)
        kept = len(requests) - len(open_rows)
        logger.info("process %d of %d: answered %d requests", self.rank + 1, self.world_size, len(open_rows))
        if kept:
            logger.info("%d more stood in %s from an earlier run (answers_dir=none asks again)", kept, store.folder)
        return [answers[row] for row in range(len(requests))]

    def _is_known(self, key: str, store: AnswerStore) -> bool:
        """Whether an answer need not be decoded: it was kept, and so was its trace where one is wanted."""
        return store.find(key) is not None and (self._tracer is None or self._tracer.has(key))

    def _decode(self, requests: list[Instance], disable_tqdm: bool) -> list[Answer]:
        """Answer requests of one turn; the host's own ``generate_until``."""
        texts = super().generate_until(requests, disable_tqdm=disable_tqdm)  # type: ignore[misc]
        rows = zip(requests, texts, strict=True)
        found = [(text, self._arrived_answers.get((self._identity(*one.args), text), (None, ""))) for one, text in rows]
        return [Answer(opened + text, truncated) for text, (truncated, opened) in found]

    def _ended(self, context: str) -> bool | None:
        """Whether the answer that just arrived for a rendered prompt ran into its token budget."""
        raise NotImplementedError

    def _opened(self, context: str) -> str:
        """The tag of thinking that its prompt opened and the answer that just arrived never closed; else ""."""
        return ""

    def _keep(self, store: AnswerStore) -> Callable[[str, dict[str, Any], str], str]:
        def keep(context: str, gen_kwargs: dict[str, Any], answer: str) -> str:
            truncated, opened = self._ended(context), self._opened(context) if answer.strip() else ""
            self._arrived_answers[self._identity(context, gen_kwargs), answer] = truncated, opened
            if key := self._key(context, gen_kwargs):
                settings, sample, _ = self._split(gen_kwargs)
                if self._tracer is not None:
                    about = (key, context, settings, sample, opened + answer, self.tokenizer)
                    self._tracer.arrived(*about, as_asked=self._as_asked(context))
                store.add(key, Stored(opened + answer, truncated))
            return Answer(opened + answer, truncated)

        return keep

    @property
    def _arrived_answers(self) -> dict[tuple[str, str], tuple[bool | None, str]]:
        """(request, text) of each answer of the present call that arrived -> whether it is truncated, and `_opened`."""
        return self.__dict__.setdefault("_answers_arrived", {})

    def _as_asked(self, context: str) -> str:
        """Return the rendered prompt as lm-eval has it, which its samples are hashed by."""
        return context

    def _identity(self, context: str, gen_kwargs: Mapping[str, Any]) -> str:
        settings, sample, options = self._split(gen_kwargs)
        # Answers of before do not show that their thinking goes on.
        if opened := opening_tag(self._as_asked(context)):
            options = {**options, "thinking": opened}
        return request_key(context, settings, sample, options)

    def _key(self, context: str, gen_kwargs: Mapping[str, Any]) -> str | None:
        """What the answer is kept under; None where ``generate`` draws it with noise that nobody can draw again."""
        _, _, options = self._split(gen_kwargs)
        return None if options.get("do_sample") else self._identity(context, gen_kwargs)

    def _split(self, gen_kwargs: Mapping[str, Any]) -> tuple[DecodingSettings, int, dict[str, Any]]:
        plain = {name: value for name, value in gen_kwargs.items() if name != FOLLOW_UPS}
        return split_gen_kwargs(plain, self.settings, self._own_words)

    @property
    def _own_words(self) -> frozenset[str]:
        """gen_kwargs of this host beside those of transformers and lm-eval."""
        return frozenset()

    def _draws(self, request: Instance) -> bool:
        return self._split(request.args[1])[0].samples

    def _is_drawn_anew(self, request: Instance) -> bool:
        """Whether a request's answer is a draw, which lm-eval's cache must not hold."""
        return self._draws(request) or self._key(*request.args) is None

    # ------------------------------------------------------------------ several turns

    @property
    def _chats(self) -> dict[str, list[dict[str, str]]]:
        """Rendered prompt -> the turns it was rendered from: pickers and later turns want those."""
        return self.__dict__.setdefault("_rendered_chats", {})

    def _template(self, add_generation_prompt: bool) -> Callable[..., str]:
        """What renders a chat's turns."""
        options = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        options |= getattr(self, "chat_template_args", None) or {}
        return functools.partial(self.tokenizer.apply_chat_template, tokenize=False, **options)

    def settled_turns(self, chat: list[dict[str, Any]], add_generation_prompt: bool = True) -> list[dict[str, Any]]:
        """A chat as its template takes it, see `rendering.settled`."""
        return settled(self._template(add_generation_prompt), chat, f"the chat that starts with {str(chat[0])[:80]}")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a chat and remember its turns; where a template refuses a system turn, lm-eval would leave it out."""
        turns = self.settled_turns(chat_history, add_generation_prompt)
        text = super().apply_chat_template(turns, add_generation_prompt)  # type: ignore[misc]
        self._chats[text] = [dict(turn) for turn in chat_history]
        return text

    def _next_context(self, context: str, reply: str, turn: str) -> str:
        """Render the prompt of a later turn: the chat so far where one was rendered, plain text otherwise."""
        if context not in self._chats:
            return f"{context}{reply}\n\n{turn}\n\n"
        said = [{"role": "assistant", "content": reply}, {"role": "user", "content": turn}]
        return self.apply_chat_template([*self._chats[context], *said])

    # ------------------------------------------------------------------ lm-eval's cache

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Answer from a cache table of these weights and settings only: lm-eval's own key holds just the request."""
        super().set_cache_hook(keyed_cache_hook(cache_hook, self.cache_fingerprint()))  # type: ignore[misc]

    def cache_fingerprint(self) -> str:
        """Return what separates this model's answers from another's in one cache file."""
        return self.settings.fingerprint(model=self.model_account(), loglikelihood=self._arguments.loglikelihood)


class _Keeping(CacheHook):
    """lm-eval calls its cache hook with every answer as it arrives; this one also keeps the answer."""

    def __init__(self, hook: CacheHook, keep: Callable[[str, dict[str, Any], str], str]) -> None:
        self._hook = hook
        self._keep = keep
        self.dbdict = hook.dbdict

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        answer = self._keep(req[0], req[1], res) if attr == "generate_until" else res
        self._hook.add_partial(attr, req, answer)


def _number_repeats(requests: list[Instance], draws: Callable[[Instance], bool]) -> list[Instance]:
    """Give the k-th copy of one sampled request the sample number k, so that repeats differ."""
    seen: collections.Counter[str] = collections.Counter()
    numbered = []
    for request in requests:
        context, gen_kwargs = request.args
        if draws(request):
            key = repr((context, sorted(gen_kwargs.items(), key=lambda item: item[0])))
            if seen[key]:
                request = copy.copy(request)
                request.arguments = (context, {**gen_kwargs, "sample": seen[key]})
            seen[key] += 1
        numbered.append(request)
    return numbered
