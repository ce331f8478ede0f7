"""``--use_cache`` with a key that holds the model: one table per weights and settings.

lm-eval 0.4.13 keys cached answers by the request alone (api/model.py, hash_args), so a second run with another alpha
would be handed the first run's answers. Requests stay the key; the table they are looked up in carries the rest.
"""

from __future__ import annotations

import uuid
from typing import Any

from lm_eval.api.model import CacheHook

__all__ = ["keyed_cache_hook"]


def keyed_cache_hook(hook: CacheHook, model: Any) -> CacheHook:
    """Point the cache behind ``hook`` at this model's own table and return the hook.

    Answers drawn with noise get a table of this run alone: like lm-eval's ``do_sample`` requests they are not reused,
    since its key cannot tell repeats of one request apart.
    """
    database = getattr(hook, "dbdict", None)
    if database is None:
        return hook
    suffix = uuid.uuid4().hex[:16] if model.settings.samples else model.cache_fingerprint()
    database.tablename = f"aad_{suffix}"
    database.conn.execute(f'CREATE TABLE IF NOT EXISTS "{database.tablename}" (key TEXT PRIMARY KEY, value BLOB)')
    database.conn.commit()
    return hook
