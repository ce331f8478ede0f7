"""Alignment-aware decoding: a DPO policy and its SFT reference decode as one causal language model.

Importing this package loads neither torch nor transformers; public names are resolved on first use. It is imported at
interpreter start by the plug-in's ``.pth`` line, so it imports nothing that the interpreter has not loaded anyway.
"""

__version__ = "0.1.0"

_HOMES = {
    "AADError": "aad_plugin.errors",
    "AlignedPair": "aad_plugin.pair.model",
    "DecodingSettings": "aad_plugin.settings",
    "aad_scores": "aad_plugin.decoding",
    "answer": "aad_plugin.pair.answering",
    "eft_scores": "aad_plugin.decoding",
    "load_pair": "aad_plugin.pair.model",
    "plausible_set": "aad_plugin.decoding",
    "token_advantage": "aad_plugin.decoding",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name):
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
