"""The leaderboard as one static page: opens from disk, asks the network for nothing.

The page embeds the leaderboard as JSON and draws it with the scripts in templates/. Labels and every other
string of a result are untrusted: the template escapes them, the JSON cannot end its element, the scripts
write text and never markup, and the page's own policy runs no script but ours and allows no request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_text
from lorafuse_bench.leaderboards.board import Leaderboard, to_json
from lorafuse_bench.leaderboards.evidence import Evidence, as_json

SCRIPTS = ("dom", "scores", "state", "table", "plots", "compare", "samples", "main")
COSTS = {
    "extra_parameters": "extra parameters",
    "eval_seconds": "evaluation, seconds",
    "served_seconds_per_1000_tokens": "served by vLLM, seconds per 1,000 tokens",
}


def write_page(folder: str | Path, leaderboard: Leaderboard, evidence: Sequence[Evidence] = ()) -> Path:
    """Write `index.html` into `folder` and return its path."""
    path = Path(folder) / "index.html"
    write_text(path, render(leaderboard, evidence))
    return path


def render(leaderboard: Leaderboard, evidence: Sequence[Evidence] = ()) -> str:
    """The page's HTML; the same leaderboard and evidence give the same text.

    `evidence` (see evidence.py), one for each board in order, lets the page compare methods on the same
    items, show recovered gaps and, for the package's own texts, samples; without it those are absent.
    """
    if evidence and len(evidence) != len(leaderboard.boards):
        raise LorafuseError(
            f"{len(leaderboard.boards)} boards but evidence of {len(evidence)}. Give one for each, or none."
        )
    extras = [as_json(*pair) for pair in zip(leaderboard.boards, evidence, strict=True)] if evidence else []
    script = "(() => {\n'use strict';\n" + "\n".join(_template(f"{name}.js") for name in SCRIPTS) + "})();\n"
    style = _template("page.css")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_template("page.html.j2")).render(
        boards=leaderboard.boards,
        costs=COSTS.items(),
        data=_data({"leaderboard": json.loads(to_json(leaderboard)), "extras": extras}),
        script=Markup(script),
        script_hash=_hash(script),
        style=Markup(style),
        style_hash=_hash(style),
    )


def _template(name: str) -> str:
    return (files("lorafuse_bench.leaderboards") / "templates" / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """As a content security policy names an inline element."""
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _data(content: dict[str, Any]) -> Markup:
    """JSON that is safe inside a script element: no `<` or `>`, so neither an end tag nor a comment."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
