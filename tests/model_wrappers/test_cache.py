"""lm-eval's answer cache is refused at the moment lm-eval would attach it."""

import pytest
from lm_eval.api.model import CacheHook, CachingLM
from lm_eval.models.dummy import DummyLM

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.model_wrappers.cache import refuse_request_cache


class Refusing(DummyLM):
    def set_cache_hook(self, cache_hook):
        refuse_request_cache(cache_hook)
        super().set_cache_hook(cache_hook)


def test_attaching_a_cache_is_refused_with_the_reason(tmp_path):
    with pytest.raises(LorafuseError, match="--use_cache is refused.*by prompt only"):
        CachingLM(Refusing(), str(tmp_path / "answers.db"))


def test_a_hook_without_a_database_passes():
    model = Refusing()
    hook = CacheHook(None)
    model.set_cache_hook(hook)
    assert model.cache_hook is hook
