"""Every error a user of aad_plugin can meet.

    AADError
    ├── ConfigError            an option, file or folder is not what was expected
    │   └── ReferenceUnknown   nothing proves which model the policy was tuned from
    ├── VocabMismatch          policy and reference do not share token ids
    ├── NonFiniteLogits        a model produced NaN or ±inf
    ├── ProofFailed            no path of a pair gives what its models give alone
    ├── BackendMissing         an optional package is not installed
    ├── AssetError             a download or cached file of the demo pair is missing or wrong
    └── JudgeError             judging stopped
        ├── JudgeUnavailable   the judge did not answer; may be tried again
        └── VerdictUnreadable  the judge answered, but not with a verdict; trying again is a decision

A message says what was expected, what arrived and what to do. Nothing here imports torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AADError(Exception):
    """Base of every error this package raises for a user's input or surroundings."""


class ConfigError(AADError, ValueError):
    """An option, file or folder is not what was expected."""


class ReferenceUnknown(ConfigError):
    """Nothing in the input proves which model the policy was tuned from."""


class VocabMismatch(AADError, ValueError):
    """Policy and reference do not map tokens to the same ids."""


class NonFiniteLogits(AADError, ArithmeticError):
    """A model's logits hold NaN or ±inf; the message names the model and the step."""


class ProofFailed(AADError):
    """No path of this pair gives what its models give alone, or an option would change its tokens."""


class BackendMissing(AADError, ImportError):
    """An optional package is not installed; the message holds the install command."""


class AssetError(AADError, OSError):
    """A download or cached file is missing, incomplete or fails its hash."""


class JudgeError(AADError):
    """Judging stopped; what was judged before is kept."""


class JudgeUnavailable(JudgeError):
    """The judge did not answer (network, quota, server); may be tried again."""


class VerdictUnreadable(JudgeError):
    """The judge answered, but its reply holds no verdict."""


def first_line(error: BaseException) -> str:
    """Return the first line with text of another library's error; the error's name where it says nothing.

    A package that is missing is named with how to install it.
    """
    lines = (line.strip() for line in str(error).splitlines())
    said = next((line for line in lines if line), type(error).__name__)
    if "trust_remote_code" in str(error) and "trust_remote_code" not in said:
        said += " (pass trust_remote_code=true, or reference_trust_remote_code=true for the reference, if you trust it)"
    missing = getattr(error, "name", None) if isinstance(error, ImportError) else None
    return f"{said} (pip install {str(missing).partition('.')[0]})" if missing and "pip install" not in said else said


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest allowed name, or an empty string."""
    match = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""
