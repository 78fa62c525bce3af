"""Why `lm_eval --use_cache` is refused, and the refusal."""

from __future__ import annotations

from typing import Any

from lorafuse_bench.errors import LorafuseError


def refuse_request_cache(cache_hook: Any) -> None:
    """Raise LorafuseError when lm-eval hands over a cache of answers that holds a database.

    `lm_eval --use_cache FILE` wraps the model in a `CachingLM`, whose constructor calls the model's
    `set_cache_hook` with a hook on the database; our models call this there. The cache looks answers up
    by the text of the request alone, neither by task nor by method: it would give one expert's answer to
    another task, and one method's to another.

    Args:
        cache_hook: lm-eval's `CacheHook`; one without a database (`dbdict` None) stores nothing and passes.
    """
    if getattr(cache_hook, "dbdict", None) is not None:
        raise LorafuseError(
            "--use_cache is refused: lm-eval's cache knows answers by prompt only, so one method's or one"
            " task's answers would be given for another's. Leave it out; `lorafuse run` keeps finished cells."
        )
