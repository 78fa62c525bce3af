"""What tests of several folders share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

# Tests never wait for a network; huggingface_hub reads this when it is first imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from handmade import write_data


@pytest.fixture(scope="session")
def handmade_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a few handmade rows for every task."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True, scope="session")
def _commands_are_made_once() -> Iterator[None]:
    """typer's runner makes all commands anew for every call, which takes longer than most refusals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(autouse=True)
def _no_tasks_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a suite's file makes its folder searched; that ends with the test."""
    monkeypatch.setenv("LORAFUSE_TASKS", "")
