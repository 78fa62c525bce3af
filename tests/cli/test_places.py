"""Every command that writes says before its work, not after it, that it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from lorafuse_bench import files
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError

PLACES = {"out", "html", "plot", "markdown"}


def written(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every option below a command that says where to write."""
    if name.endswith(" analyze"):  # one function of its own checks for all analyses
        return
    for key, sub in getattr(command, "commands", {}).items():
        yield from written(sub, f"{name} {key}")
    for option in command.params if not hasattr(command, "commands") else ():
        if option.name in PLACES and not getattr(option, "is_flag", False):
            yield f"{name} {option.name}", option


@pytest.mark.parametrize(("name", "option"), list(written(typer.main.get_command(app), "lorafuse")))
def test_where_to_write_is_tried_when_the_command_line_is_read(
    name: str, option: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert option.callback is not None, name
    with pytest.raises(LorafuseError, match="cannot write"):
        option.callback(None, option, tmp_path / "file" / "x")


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    files.check_file_writable(tmp_path / "new" / "file.json")
    with pytest.raises(LorafuseError, match="it is a folder"):
        files.check_file_writable(tmp_path)
    assert not list(tmp_path.iterdir())
