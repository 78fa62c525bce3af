"""The JSON Schema files are those of the models, and real files fit them."""

import json
from pathlib import Path

from pydantic import BaseModel
from toy_cells import write
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.leaderboards import schemas


def test_the_files_are_fresh() -> None:
    assert schemas.checked_in() == schemas.generate(), (
        "write them anew: lorafuse leaderboard schema --out DIR"
    )


def test_every_field_is_documented() -> None:
    for name, content in schemas.generate().items():
        for title, model in json.loads(content).get("$defs", {}).items():
            for field, described in model.get("properties", {}).items():
                assert described.get("description"), f"{name}: {title}.{field}"


def test_a_result_has_the_fields_of_its_schema(tmp_path: Path) -> None:
    written = json.loads(write(tmp_path, "moa", {"one": [1.0, 0.0]}).read_text())
    described = json.loads(schemas.generate()["result.v3.schema.json"])
    assert set(described["required"]) <= set(written) == set(described["properties"])


def test_all_models_refuse_surplus_fields() -> None:
    for model in schemas.MODELS.values():
        assert issubclass(model, BaseModel)
    for content in schemas.generate().values():
        for title, part in json.loads(content).get("$defs", {}).items():
            if "properties" in part:
                assert part["additionalProperties"] is False, title


def test_the_command_writes_them(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["leaderboard", "schema", "--out", str(tmp_path)])
    assert done.exit_code == 0
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == schemas.checked_in()
