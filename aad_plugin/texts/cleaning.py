"""Texts from outside made fit to keep and to print: no secrets, no control characters."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

_SHORTEST_SECRET = 4
# Control characters (line ends and tabs too where one line is wanted), halves of surrogate pairs, and the marks that
# turn the direction of writing around.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_USERINFO = re.compile(r"(?<=:)//[^/\s@]+@")


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey, and that every file can hold; line ends and tabs stay."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret replaced, also as JSON, Python, a URL or base64 write it.

    Secrets of fewer than 4 characters are left: they would take words apart.
    """
    written = {form for secret in secrets for form in _forms(secret) if len(form) >= _SHORTEST_SECRET}
    for form in sorted(written, key=len, reverse=True):
        text = text.replace(form, "[secret]")
    return text


def without_passwords(text: str) -> str:
    """`text` with what stands for a name and password in its URLs replaced."""
    return _USERINFO.sub("//[secret]@", text)


def _forms(secret: str) -> Iterable[str]:
    for one in {secret, secret.strip()}:
        if len(one) < _SHORTEST_SECRET:
            continue
        coded = base64.b64encode(one.encode(errors="replace")).decode()
        yield from (one, json.dumps(one)[1:-1], repr(one)[1:-1], quote(one, safe="", errors="replace"))
        if len(one) >= 8:
            yield coded.rstrip("=")
