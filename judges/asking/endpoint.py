"""One OpenAI-compatible endpoint: its options, its client, its secrets, and what its errors mean.

The only module that imports the openai package. Secrets (the key, header values, a password in the URL) enter here and
leave only towards the server: `Endpoint.clean` takes them out of every text that goes anywhere else.
"""

from __future__ import annotations

import base64
import ipaddress
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from aad_plugin.errors import BackendMissing, ConfigError
from aad_plugin.judges.asking.patience import PATIENCE_S
from aad_plugin.judges.asking.server_errors import ErrorInBody, retry_after, sort_error
from aad_plugin.texts.cleaning import printable, without_secrets

_WEB = ("httpx", "httpx2", "httpcore", "httpcore2")
# Headers whose values are credentials: a server may repeat a part of one.
_CREDENTIALS = re.compile("auth|cookie|key|token|secret|password", re.IGNORECASE)
_SHORTEST_PART = 8  # shorter ones are words such as Bearer
INSTALL = "this judge needs the openai package: pip install 'aad_plugin[judges]'"


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with one request.

    `action` is "retry" (the server may answer later), "skip" (it never will, this request is unjudged) or "stop" (no
    request will be answered). `wait_s` is the server's Retry-After, where it gave one. `limited`: too many requests,
    or a server that says for how long it is busy. `unreached`: no connection, so that nothing tells whether it exists.
    """

    action: str
    reason: str
    detail: str
    wait_s: float | None = None
    limited: bool = False
    unreached: bool = False


@dataclass(frozen=True)
class Endpoint:
    """Where to ask and with which key.

    Args:
        base_url: of an OpenAI-compatible API, ending in /v1; None is the client's default (OPENAI_BASE_URL, or OpenAI).
        key_variable: environment variable that holds the key.
        headers: extra headers; a value "$NAME" is read from the environment variable NAME.
        timeout_s: for one request from its start to the reply's last byte, in seconds.
        patience_s: how long a server that answers nothing is asked again, in seconds.
    """

    base_url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 120.0
    patience_s: float = PATIENCE_S

    def __post_init__(self) -> None:
        if not isinstance(self.key_variable, str):
            raise ConfigError(f"key_variable names an environment variable, got {type(self.key_variable).__name__}")
        if not isinstance(self.headers, Mapping):
            raise ConfigError(f"headers must be a mapping of names to values, got {type(self.headers).__name__}")
        if not (isinstance(self.timeout_s, int | float) and 0 < self.timeout_s < math.inf):
            raise ConfigError(f"timeout_s must be a number of seconds above 0, got {self.timeout_s!r}")
        if not (isinstance(self.patience_s, int | float) and 0 <= self.patience_s < math.inf):
            raise ConfigError(f"patience_s must be a number of seconds of at least 0, got {self.patience_s!r}")
        _check_url(self._url())

    def client(self, asynchronous: bool = True) -> Any:
        """An openai client that never retries by itself: the transport does, and counts.

        It follows redirects within the server's own origin only: no other gets a key, a header or a text.

        Raises:
            BackendMissing: openai is not installed. ConfigError: the key's or a header's variable is not set.
        """
        try:
            import openai
        except ImportError as error:
            raise BackendMissing(INSTALL) from error
        make = openai.AsyncOpenAI if asynchronous else openai.OpenAI
        # The URL stands in the log lines of the http library, so a password in it travels as a header instead.
        url, password = _without_password(self._url())
        headers = {str(name): _resolve(str(value)) for name, value in self.headers.items()}
        if password and not any(name.lower() == "authorization" for name in headers):
            headers["Authorization"] = f"Basic {password}"
        web: Any
        if asynchronous:
            web = openai.DefaultAsyncHttpxClient(event_hooks={"response": [_stay_async]}, timeout=self.timeout_s)
        else:
            web = openai.DefaultHttpxClient(event_hooks={"response": [_stay]}, timeout=self.timeout_s)
        return make(
            api_key=self.key(), base_url=url or None, max_retries=0, timeout=self.timeout_s, default_headers=headers,
            http_client=web,
        )  # fmt: skip

    def key(self) -> str:
        """The key; a placeholder for a server on this machine or network, or one that has a password in its URL.

        Raises:
            ConfigError: the variable is not set, or holds what no header can carry; names it.
        """
        key = _for_header(os.environ.get(self.key_variable, ""), self.key_variable)
        if not key and (_is_local(self._url()) or _without_password(self._url())[1]):
            return "none"
        if not key:
            raise ConfigError(
                f"the judge needs a key in the environment variable {self.key_variable}, which is not set; "
                "set it, or name another variable with --key-variable"
            )
        return key

    def clean(self, text: str) -> str:
        """`text` without this endpoint's secrets, in one piece for the terminal."""
        return re.sub(r"\b(sk|key)-[A-Za-z0-9_*-]{8,}", "[secret]", self.clean_reply(printable(text)))

    def clean_reply(self, text: str) -> str:
        """`text` without this endpoint's secrets and otherwise unchanged."""
        secrets = [os.environ.get(self.key_variable, "")]
        secrets += _parts(secrets[0])
        for name, value in ((name, str(value)) for name, value in self.headers.items()):
            held = os.environ.get(value[1:], "") if value.startswith("$") else ""
            secrets += [value, held]
            if _CREDENTIALS.search(name):
                secrets += _parts(held or value)
        parts = urlsplit(self._url())
        password = _without_password(self._url())[1]
        secrets += [parts.username or "", parts.password or "", unquote(parts.password or ""), parts.query, password]
        return without_secrets(text, secrets)

    @property
    def address(self) -> str:
        """Where is asked, without a password; "" for the client's default."""
        return _without_password(self._url())[0]

    def _url(self) -> str:
        return self.base_url or os.environ.get("OPENAI_BASE_URL", "")

    def failure(self, error: Exception) -> Failure:
        """Sort an exception of a request; what only a mistake of ours can raise is raised again."""
        import openai

        detail = self.clean(f"{type(error).__name__}: {error}")[:300]
        if isinstance(away := error if isinstance(error, _Elsewhere) else error.__cause__, _Elsewhere):
            return Failure("stop", "transport", self.clean(str(away))[:300])
        if isinstance(error, openai.APIStatusError):
            code = (
                f"{error.code or ''} {error.body}" if "insufficient_quota" in str(error.body) else str(error.code or "")
            )
            return self._sorted(error.status_code, code, detail, error.response.headers)
        if isinstance(error, ErrorInBody):
            return self._sorted(error.status, error.code, detail, error.headers)
        if isinstance(error, UnicodeEncodeError):  # of the request: half a surrogate pair is no text
            return Failure("skip", "rejected", detail)
        if isinstance(error, TimeoutError):
            return Failure("retry", "transport", f"no whole reply within {self.timeout_s:g} s")
        if isinstance(error, openai.APIConnectionError):
            cause = f": {error.__cause__}" if error.__cause__ else ""
            lost = not isinstance(error, openai.APITimeoutError)
            return Failure(
                "retry", "transport", self.clean(f"{type(error).__name__}: {error}{cause}")[:300], unreached=lost
            )
        broken = (openai.APIResponseValidationError, ValueError, RecursionError, OSError, EOFError, LookupError)
        if isinstance(error, broken) or type(error).__module__.partition(".")[0] in _WEB:
            return Failure("retry", "transport", detail)
        raise error

    def _sorted(self, status: int | None, code: str, detail: str, headers: Mapping[str, str]) -> Failure:
        action, reason = sort_error(status, code, detail)
        if action == "quota":
            return Failure("stop", reason, f"the judge's quota is exhausted: {detail}")
        if action == "key":
            return Failure("stop", reason, f"the server refuses the key in {self.key_variable}: {detail}")
        if action == "missing":
            asked = "what was asked for (model? base URL, with /v1?)"
            return Failure("stop", reason, f"the server does not have {asked}: {detail}")
        if action == "skip":
            return Failure("skip", reason, detail)
        wait_s = retry_after(headers)
        limited = action == "limited" or (status == 503 and wait_s is not None)
        return Failure("retry", reason, detail, wait_s, limited=limited)


class _Elsewhere(Exception):
    """A redirect that leads away from the server the user named."""


def _stay(response: Any) -> None:
    """Refuse a redirect to another origin before it is followed."""
    if not response.has_redirect_location:
        return
    there = urlsplit(urljoin(str(response.url), response.headers["location"]))
    here = urlsplit(str(response.url))
    if _origin(here) != _origin(there):
        named = f"{there.scheme}://{there.hostname or ''}{f':{there.port}' if there.port else ''}"
        raise _Elsewhere(
            f"the server redirects to another address, {named}, which gets neither the key nor the texts; if that is the "
            "right one, pass it as --base-url"
        )


async def _stay_async(response: Any) -> None:
    _stay(response)


def _origin(parts: Any) -> tuple[str, str, int | None]:
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _check_url(url: str) -> None:
    if url == "":
        return
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except (ValueError, AttributeError, TypeError):
        sound = False
    if not sound:  # the URL itself may hold a password
        raise ConfigError(
            "base_url (or OPENAI_BASE_URL) must be an address such as https://judges.example:8000/v1; its host or port is "
            "none"
        )


def _without_password(url: str) -> tuple[str, str]:
    """A URL without user and password, and these as HTTP's basic authorization; "" where there are none."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, ""
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return urlunsplit(bare), base64.b64encode(pair.encode()).decode()


def _for_header(value: str, variable: str) -> str:
    """A secret as a header can carry it: a line end after it is nobody's intention."""
    value = value.strip()
    if not (value.isascii() and value.isprintable()):
        raise ConfigError(f"the environment variable {variable} must hold one line of ASCII characters; it does not")
    return value


def _resolve(value: str) -> str:
    if not value.startswith("$"):
        return value
    found = os.environ.get(value[1:])
    if found is None:
        raise ConfigError(f"a judge header is to be read from the environment variable {value[1:]}, which is not set")
    return _for_header(found, value[1:])


def _parts(value: str) -> list[str]:
    """What a server may repeat of a header's value alone: a token without the word before it, a cookie of several.

    A base64 pad stays with its token, which is cleaned with and without it.
    """
    found = [part.strip("\"' ") for part in re.split(r"[\s;,]+|=(?!=|$)", value)]
    whole = [one for part in found for one in (part, part.rstrip("=")) if one != value]
    return [one for one in whole if len(one) >= _SHORTEST_PART and not re.fullmatch("[A-Z]?[a-z]+", one)]


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or host.endswith(".local")
