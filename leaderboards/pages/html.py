"""Every page of ours is made here: one static file that opens from disk and asks the network for nothing.

Labels and every other string of a result are untrusted. The templates escape them, JSON cannot end its
element, the scripts write text and never markup, and the page's own policy runs no script but ours and
allows no request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from lorafuse_bench.leaderboards.boards import text


def render(template: str, scripts: Sequence[str], **values: Any) -> str:
    """The page that `templates/<template>.html.j2` makes of `values`, with these of `templates/*.js` in it."""
    script = "(() => {\n'use strict';\n" + "\n".join(_read(f"{name}.js") for name in scripts) + "})();\n"
    style = _read("page.css")
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(_read),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": text.number, "signed": text.signed}
    return environment.get_template(f"{template}.html.j2").render(
        script=Markup(script),
        script_hash=_hash(script),
        style=Markup(style),
        style_hash=_hash(style),
        **values,
    )


def embedded(content: dict[str, Any]) -> Markup:
    """JSON that is safe inside a script element: no `<` or `>`, so neither an end tag nor a comment."""
    held = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Markup(held.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _read(name: str) -> str:
    return (files("lorafuse_bench.leaderboards.pages") / "templates" / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """As a content security policy names an inline element."""
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
