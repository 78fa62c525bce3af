"""What the tests of training share."""

from __future__ import annotations

import pytest
from tiny import byte_tokenizer, tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a base with two blocks and a tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tiny_model(layers=2).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)
