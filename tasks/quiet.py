"""Keeps three of lm-eval's warnings about tasks from drowning the rest.

It tells users of any task with a custom loader that metadata exists, once a task; that the `_options` leaves report no
`score`, which is what keeps them out of the group mean; and, of its own metrics, that their own defaults are used.
"""

from __future__ import annotations

import logging
import re

_NOISE = {
    "lm_eval.api.task": re.compile(
        r"(?:lorafuse_\w+|\w+::[^:]+): Custom kwargs can be passed|\[Task: .*\] metric .* is defined, but .* is not"
    ),
    "lm_eval.api.group": re.compile(r"Group .*metric 'score,none' is missing in .*Missing in: lorafuse_"),
}


def _drop(logger: str, noise: re.Pattern[str]) -> None:
    logging.getLogger(logger).addFilter(lambda record: not noise.match(record.getMessage()))


for _logger, _pattern in _NOISE.items():
    _drop(_logger, _pattern)
