"""What --model_args may hold, and whose each option is: the method's, the wrapper's, or the model's."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from lorafuse_bench.errors import LorafuseError, did_you_mean, unknown
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import CONTROL, FusionMethod

# What the wrapper sets itself, and what would change what `from_pretrained` returns.
_NOT_TO_SET = frozenset(
    "self kwargs pretrained backend peft delta truncation pretrained_model_name_or_path model_args config state_dict"
    " torch_dtype adapter_name adapter_kwargs output_loading_info gguf_file tqdm_class".split()
)
_TAKEN = re.compile(r"""kwargs\.(?:pop|get)\(\s*["']([a-z]\w*)["']""")


def hf_options() -> frozenset[str]:
    """Names that lm-eval's hf model takes, and `from_pretrained` of transformers, to which it hands the rest."""
    load = PreTrainedModel.from_pretrained
    named = {*inspect.signature(HFLM.__init__).parameters, *inspect.signature(load).parameters}
    return frozenset(named | set(_TAKEN.findall(inspect.getsource(load)))) - _NOT_TO_SET


def config_options(folder: Path) -> frozenset[str]:
    """Names in a base's config.json: `from_pretrained` overrides them by arguments of the same name."""
    return frozenset(json.loads((folder / "config.json").read_text())) - _NOT_TO_SET


def split_options(
    method: str,
    options: Mapping[str, Any],
    ours: AbstractSet[str],
    model: AbstractSet[str],
    owner: str,
    more: Callable[[], AbstractSet[str]] = frozenset,
) -> tuple[FusionMethod, dict[str, Any]]:
    """The method made from its options, and those left for `owner`, whose options are named `model`.

    `ours`: what else the wrapper takes, beside zoo, experts and data, for the list of what is known.
    `more`: further names of the owner's, looked up where an option is none of the others.
    """
    known = registry.methods()
    name, colon, _ = method.partition(":")
    if name not in known:
        raise unknown("method", method, known)
    own = frozenset() if colon else frozenset([*known[name].option_names(), *known[name].renamed, CONTROL])
    strange = options.keys() - own - model
    for key in sorted(strange and strange - more()):
        named = own | ours | {"zoo", "experts", "data", "max_length"}
        raise LorafuseError(
            f"unknown option '{key}' in --model_args for method '{method}'.{did_you_mean(key, named | model)}"
            f" Known: {', '.join(sorted(named))}, and those of {owner}."
        )
    left = {key: value for key, value in options.items() if key not in own}
    if colon:
        return registry.parse(method), left
    return registry.create(name, {key: value for key, value in options.items() if key in own}), left


def truth(name: str, value: bool | str) -> bool:
    """A yes or no of --model_args."""
    if str(value).lower() not in ("true", "false"):
        raise LorafuseError(f"option {name}={value} in --model_args must be true or false.")
    return str(value).lower() == "true"
