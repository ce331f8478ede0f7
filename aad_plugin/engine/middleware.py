"""Requests to a served pair: the strategy by model name or ``vllm_xargs``, and a 400 with the reason for what cannot be.

An ASGI middleware for vLLM's OpenAI server (``--middleware aad_plugin.engine.middleware.AADMiddleware``). Knows HTTP and
JSON, no engine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aad_plugin.engine.requests import DRAFTS_DRAW, PENALTIES, Held, settings_of
from aad_plugin.engine.row_scores import STRATEGIES
from aad_plugin.errors import AADError, ConfigError

SHARED_IDS = "AAD_PLUGIN_SHARED_IDS"  # environment variable: number of token ids that all models of the server know
GUIDES = (
    "AAD_PLUGIN_GUIDES"  # environment variable: number of guides; then "alone" without a reference, "drafts" with them
)
IGNORE_TEMPERATURE = (
    "AAD_PLUGIN_IGNORE_TEMPERATURE"  # environment variable: not empty, `aad serve --ignore-temperature`
)
_PATHS = ("/v1/chat/completions", "/v1/completions")
# Requests that decode nothing.
_HARMLESS = (
    "/tokenize", "/detokenize", "/ping", "/health", "/reset_prefix_cache", "/sleep", "/wake_up", "/start_profile",
    "/stop_profile",
)  # fmt: skip
Message = MutableMapping[str, Any]


def model_names(name: str, held: Held) -> list[str]:
    """Return the names under which a pair is served: NAME for AAD, or for guides of a policy alone, NAME-<strategy> for
    the others.

    Raises:
        ConfigError: a name that ends as the name of another strategy would.
    """
    if (ending := _asked_by(name)) is not None:
        raise ConfigError(
            f"the name {name!r} ends with -{ending}, by which requests ask for that strategy: serve the pair under another "
            "name (--name)"
        )
    return [name, *(f"{name}-{strategy}" for strategy in held.strategies[1:])]


def _asked_by(name: str) -> str | None:
    """The strategy that a model's name asks for by its end."""
    return next((strategy for strategy in STRATEGIES if name.endswith(f"-{strategy}")), None)


def environment(shared_ids: int, held: Held, ignore_temperature: bool) -> dict[str, str]:
    """Return what the middleware reads: vLLM makes it without arguments."""
    return {
        SHARED_IDS: str(shared_ids),
        GUIDES: f"{held.num_guides}{' alone' if held.is_alone else ''}{' drafts' if held.drafts else ''}",
        IGNORE_TEMPERATURE: "1" if ignore_temperature else "",
    }


def _held() -> Held:
    number, *words = os.environ.get(GUIDES, "0").split()
    return Held(int(number), "alone" in words, "drafts" in words)


def check_path(path: str) -> None:
    """Raise ConfigError for an endpoint that is not known to keep a request's strategy."""
    if path.rstrip("/") not in (*_PATHS, *_HARMLESS):
        raise ConfigError(
            f"{path} is not served by a pair: it would be answered by the default strategy whatever was asked; use "
            f"{' or '.join(_PATHS)}"
        )


def check_request(
    body: dict[str, Any], shared_ids: int | None = None, ignore_temperature: bool = False, held: Held | None = None
) -> dict[str, Any]:
    """Return the request with its strategy in ``vllm_xargs``.

    Args:
        body: of a chat or text completion. shared_ids: number of token ids that all models know; None: not checked.
        ignore_temperature: of strategies whose scores are no log-probabilities; chat clients send one unasked.
        held: what the engine can decode by; None is a pair without guides.
    Raises:
        ConfigError: an unknown strategy or setting, or something that means nothing on scores of several models.
    """
    given = body.get("vllm_xargs") or {}
    if not isinstance(given, dict):
        raise ConfigError(f"vllm_xargs must be an object, got {type(given).__name__}")
    named = _asked_by(str(body.get("model", "")))
    if named and given.get("aad_strategy", named) != named:
        raise ConfigError(
            f"the model name asks for {named!r} and vllm_xargs for {given['aad_strategy']!r}: name one strategy"
        )
    if body.get("use_beam_search"):
        raise ConfigError(
            "use_beam_search is not served: vLLM's beams drop a request's strategy; --model aad searches with num_beams"
        )
    held = held or Held()
    settings = settings_of({**({"aad_strategy": named} if named else {}), **given}, held.default, held)
    if settings.ranks_ratios:
        if ignore_temperature:
            body = {name: value for name, value in body.items() if name != "temperature"}
        _check_scores(body, settings.strategy)
        # Said here, since what a request leaves out is what the server's --override-generation-config says.
        body = {**body, "temperature": 0, **PENALTIES}
    elif held.drafts and (body.get("temperature") or 0) != 0:
        raise ConfigError(
            f"temperature must be 0 on this server, got {body['temperature']}: answers are {DRAFTS_DRAW}; start it "
            "without drafts (--speculative-config, --spec-method …) to sample"
        )
    elif _asks_of_prompt(body):
        raise ConfigError(
            "log-probabilities of a prompt (prompt_logprobs, or echo with logprobs) are read off the server's default "
            "scores, which are several models': not served; --model aad-vllm scores choices"
        )
    if held.drafts:
        body = {**body, "temperature": 0}
    _check_ids(body, shared_ids)
    return {**body, "vllm_xargs": {**given, "aad_strategy": settings.strategy}}  # whatever the engine's own default is


def _check_scores(body: dict[str, Any], strategy: str) -> None:
    """Refuse what rescales or reports log-probabilities: scores are of several models."""
    advice = "use the model name with -greedy, or leave it out"
    if (body.get("temperature") or 0) != 0:
        raise ConfigError(
            f"temperature must be 0 with strategy {strategy!r}, got {body['temperature']}: scores are no "
            f"log-probabilities; {advice}, or start the server with --ignore-temperature"
        )
    for name, neutral in PENALTIES.items():
        if body.get(name) not in (None, neutral):
            raise ConfigError(f"{name} rescales logits and means nothing on scores of several models; {advice}")
    if _asks_logprobs(body) or _asks_of_prompt(body):
        raise ConfigError(f"logprobs of strategy {strategy!r} would be scores, not log-probabilities; {advice}")


def _asks_logprobs(body: dict[str, Any]) -> bool:
    wanted = body.get("logprobs")
    return (wanted is not None and wanted is not False) or bool(body.get("top_logprobs"))


def _asks_of_prompt(body: dict[str, Any]) -> bool:
    """Whether vLLM would tell log-probabilities of the prompt: 0 asks for each token's own, and so does a chat's echo."""
    if body.get("prompt_logprobs") is not None:
        return True
    return bool(body.get("echo")) and ("messages" in body or _asks_logprobs(body))


def _check_ids(body: dict[str, Any], shared_ids: int | None) -> None:
    """Refuse token ids that one of the models does not know."""
    if shared_ids is None:
        return
    prompt = body.get("prompt")
    rows = prompt if isinstance(prompt, list) and prompt and isinstance(prompt[0], list) else [prompt]
    named = {
        "prompt": [token for row in rows if isinstance(row, list) for token in row],
        **{name: body[name] for name in ("allowed_token_ids", "stop_token_ids") if isinstance(body.get(name), list)},
    }
    if isinstance(bias := body.get("logit_bias"), dict):  # what is of another type vLLM refuses itself
        named["logit_bias"] = [int(token) for token in bias if str(token).lstrip("-").isdigit()]
    for name, ids in named.items():
        wrong = [token for token in ids if isinstance(token, int) and not 0 <= token < shared_ids]
        if wrong:
            raise ConfigError(f"{name} has token id {wrong[0]}; the models share ids 0 to {shared_ids - 1}")


class _Headers(dict[str, str]):
    """A request's headers under names in lower case, found under any spelling, as vLLM's check asks for them."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class AADMiddleware:
    """Rewrites completion requests, and refuses what else would be decoded."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app
        self.shared_ids = int(os.environ.get(SHARED_IDS) or 0) or None
        self.ignore_temperature = bool(os.environ.get(IGNORE_TEMPERATURE))
        self.held = _held()

    async def _refuse(self, scope: Message, send: Any, reason: str) -> None:
        """Answer 400 with the reason, or 401 to whoever may not ask at all."""
        if self._has_key(scope):
            error: Any = {"message": reason, "type": "BadRequestError", "param": None, "code": 400}
        else:
            error = "Unauthorized"
        content = json.dumps({"error": error}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        status = 401 if error == "Unauthorized" else 400
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _has_key(self, scope: Message) -> bool:
        """Whether a request has the server's API key, by vLLM's own check, which stands behind this one; True without."""
        headers = _Headers(
            {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        )
        layer = self.app
        while layer is not None:
            if (verify := getattr(layer, "verify_token", None)) is not None:
                return bool(verify(headers))
            layer = getattr(layer, "app", None)  # type: ignore[assignment]
        return True

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path") or "").rstrip("/")
        try:
            check_path(path)
        except ConfigError as error:
            await self._refuse(scope, send, str(error))
            return
        if path not in _PATHS:
            await self.app(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.disconnect":
                return
            if not message.get("more_body"):
                break
        try:
            parsed = json.loads(body)
            known = self.shared_ids, self.ignore_temperature, self.held
            checked = check_request(parsed, *known) if isinstance(parsed, dict) else None
            content = body if checked is None else json.dumps(checked).encode()
        except AADError as error:
            await self._refuse(scope, send, str(error))
            return
        except ValueError:
            content = body  # not JSON: vLLM says so
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(content)).encode()))
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()  # the client's disconnect
            sent = True
            return {"type": "http.request", "body": content, "more_body": False}

        await self.app({**scope, "headers": headers}, replay, send)
