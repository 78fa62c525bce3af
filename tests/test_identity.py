"""What identifies a method's code and a tokenizer: it changes when, and only when, they do."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from lorafuse_bench import identity
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod

HELPER = 'def double(x):\n    """{doc}"""\n    return {body}  # {comment}\n'
METHOD = (
    "from lorafuse_bench.fusion.base import FusionMethod\n"
    "from outside.helper import double\n"
    "class Third(FusionMethod):\n    name = 'third'\n    def updates(self, runtime):\n        return double({})\n"
)


def source_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str = "2 * x", doc: str = "a", comment: str = "b"
) -> str:
    """Hash of a third party's method whose helper is written as given."""
    folder = tmp_path / "outside"
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text("")
    (folder / "helper.py").write_text(HELPER.format(body=body, doc=doc, comment=comment))
    (folder / "method.py").write_text(METHOD)
    for name in ("outside", "outside.helper", "outside.method"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    __import__("linecache").clearcache()
    __import__("importlib").invalidate_caches()
    module: ModuleType = __import__("outside.method", fromlist=["Third"])
    method: type[FusionMethod] = module.Third
    return identity.source_sha256(method)


def test_code_counts_and_words_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = source_of(tmp_path, monkeypatch)
    assert source_of(tmp_path, monkeypatch, doc="other words", comment="other") == before
    assert source_of(tmp_path, monkeypatch, body="3 * x") != before


def test_methods_differ() -> None:
    found = {name: identity.source_sha256(cls) for name, cls in registry.methods().items()}
    assert len(set(found.values())) == len({cls.__module__ for cls in registry.methods().values()})


def test_a_tokenizer_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    before = identity.tokenizer_sha256(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert identity.tokenizer_sha256(tmp_path) == before
    (tmp_path / "merges.txt").write_text("a b")
    assert identity.tokenizer_sha256(tmp_path) != before
