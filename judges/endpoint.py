"""One OpenAI-compatible endpoint: its options, its client, its secrets, and what its errors mean.

The only module that imports the openai package. Secrets (the key, header values, a password in the URL) enter here and
leave only towards the server: `Endpoint.clean` takes them out of every text that goes anywhere else.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from aad_plugin.errors import BackendMissing, ConfigError
from aad_plugin.judges.replies import is_content_filter

__all__ = ["INSTALL", "Endpoint", "Failure"]

INSTALL = "this judge needs the openai package: pip install 'aad_plugin[judges]'"


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with one request.

    `action` is "retry" (the server may answer later), "skip" (it never will, this request is unjudged) or "stop" (no
    request will be answered). `wait_s` is the server's Retry-After, where it gave one. `limited`: too many requests.
    """

    action: str
    reason: str
    detail: str
    wait_s: float | None = None
    limited: bool = False


@dataclass(frozen=True)
class Endpoint:
    """Where to ask and with which key.

    Args:
        base_url: of an OpenAI-compatible API, ending in /v1; None is the client's default (OPENAI_BASE_URL, or OpenAI).
        key_variable: environment variable that holds the key.
        headers: extra headers; a value "$NAME" is read from the environment variable NAME.
        timeout_s: for one request, in seconds.
    """

    base_url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 120.0

    def client(self, asynchronous: bool = True) -> Any:
        """An openai client that never retries by itself: the transport does, and counts.

        Raises:
            BackendMissing: openai is not installed. ConfigError: the key's or a header's variable is not set.
        """
        try:
            import openai
        except ImportError as error:
            raise BackendMissing(INSTALL) from error
        make = openai.AsyncOpenAI if asynchronous else openai.OpenAI
        return make(
            api_key=self.key(),
            base_url=self.base_url,
            max_retries=0,
            timeout=self.timeout_s,
            default_headers={name: _resolve(str(value)) for name, value in self.headers.items()},
        )

    def key(self) -> str:
        """The key; a placeholder for a server on this machine or network, which rarely wants one.

        Raises:
            ConfigError: the variable is not set; names it.
        """
        key = os.environ.get(self.key_variable, "")
        if not key and _is_local(self.base_url or os.environ.get("OPENAI_BASE_URL", "")):
            return "none"
        if not key:
            raise ConfigError(
                f"the judge needs a key in the environment variable {self.key_variable}, which is not set; "
                "set it, or name another variable with --key-variable"
            )
        return key

    def clean(self, text: str) -> str:
        """`text` without this endpoint's secrets."""
        secrets = [os.environ.get(self.key_variable, "")]
        for value in self.headers.values():
            secrets += [str(value), os.environ.get(str(value)[1:], "") if str(value).startswith("$") else ""]
        parts = urlsplit(self.base_url or "")
        secrets += [parts.password or "", parts.query]
        for secret in sorted((s for s in secrets if len(s) > 3), key=len, reverse=True):
            text = text.replace(secret, "[secret]")
        return re.sub(r"\b(sk|key)-[A-Za-z0-9_*-]{8,}", "[secret]", text)

    def failure(self, error: Exception) -> Failure:
        """Sort an exception of the openai client; unknown kinds of exceptions are raised again."""
        import openai

        detail = self.clean(f"{type(error).__name__}: {error}")[:300]
        if isinstance(error, openai.APIStatusError):
            return self._by_status(error, detail)
        if isinstance(error, openai.APIConnectionError | openai.APIResponseValidationError | ValueError):
            return Failure("retry", "transport", detail)
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
            return Failure("retry", "transport", detail)
        raise error

    def _by_status(self, error: Any, detail: str) -> Failure:
        status, code = error.status_code, str(error.code or "")
        if status == 429:
            if "insufficient_quota" in code or "insufficient_quota" in str(error.body):
                return Failure("stop", "transport", f"the judge's quota is exhausted: {detail}")
            return Failure("retry", "transport", detail, _retry_after(error.response.headers), limited=True)
        if status in (401, 403):
            return Failure("stop", "transport", f"the server refuses the key in {self.key_variable}: {detail}")
        if status == 404:
            asked = "what was asked for (model? base URL, with /v1?)"
            return Failure("stop", "transport", f"the server does not have {asked}: {detail}")
        if status in (408, 409, 425) or status >= 500:
            return Failure("retry", "transport", detail, _retry_after(error.response.headers))
        reason = "content_filter" if is_content_filter(code, detail) else "rejected"
        return Failure("skip", reason, detail)


def _resolve(value: str) -> str:
    if not value.startswith("$"):
        return value
    found = os.environ.get(value[1:])
    if found is None:
        raise ConfigError(f"a judge header is to be read from the environment variable {value[1:]}, which is not set")
    return found


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or host.endswith(".local")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from retry-after-ms or retry-after in seconds or as an HTTP date."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) / scale)
        except ValueError:
            import time
            from email.utils import parsedate_to_datetime

            try:
                return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
            except ValueError:
                return None
    return None
