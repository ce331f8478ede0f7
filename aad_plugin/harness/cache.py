"""``--use_cache`` with a key that holds the model: one table per weights and settings, and none for sampled answers.

lm-eval 0.4.13 keys cached answers by the request alone (api/model.py, hash_args), so a second run with another alpha
would be handed the first run's answers, and repeats of one sampled request would become one answer. Requests stay the
key; the table they are looked up in carries the rest.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.model import CacheHook, hash_args
from sqlitedict import SqliteDict


class _SelectiveDict(SqliteDict):
    """The database lm-eval opened, told which keys it must not keep."""

    refused: set[str]

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self.refused:
            super().__setitem__(key, value)


def keyed_cache_hook(hook: CacheHook, fingerprint: str) -> CacheHook:
    """Point the cache behind ``hook`` at the table of one model and its settings; return the hook."""
    database = getattr(hook, "dbdict", None)
    if database is None:
        return hook
    database.__class__ = _SelectiveDict  # lm-eval holds this very object and offers no other way in
    database.refused = set()
    database.tablename = (
        f"aad4_{fingerprint}"  # tables of before may hold answers that were drawn, or picked with their stop strings
    )
    database.conn.execute(f'CREATE TABLE IF NOT EXISTS "{database.tablename}" (key TEXT PRIMARY KEY, value BLOB)')
    database.conn.commit()
    return hook


def never_store(hook: CacheHook, arguments: tuple[Any, ...]) -> None:
    """Keep the answer to one generate_until request out of the cache, as lm-eval does for ``do_sample``."""
    database = getattr(hook, "dbdict", None)
    if database is not None:
        database.refused.add(hash_args("generate_until", arguments))
