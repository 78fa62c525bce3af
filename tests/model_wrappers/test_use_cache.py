"""`lm_eval --use_cache` is refused at the moment lm-eval would attach its cache of answers."""

import pytest
from lm_eval.api.model import CachingLM

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.model_wrappers.hf import LorafuseLM


def test_attaching_a_cache_of_answers_is_refused_with_the_reason(tmp_path):
    model = LorafuseLM.__new__(LorafuseLM)  # the refusal needs no weights
    with pytest.raises(LorafuseError, match="--use_cache keys answers by the prompt alone"):
        CachingLM(model, str(tmp_path / "answers.db"))
