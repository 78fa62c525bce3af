"""A zoo on disk: one base model, its LoRA experts and routers, where its data comes from."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import sha256_file, sha256_files, write_json

EMBEDDED = "mini"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseEntry(_Strict):
    """The base model: a folder inside the zoo, or a hub repository."""

    path: str = Field(description="Folder relative to the zoo, or a hub id such as Qwen/Qwen2-0.5B.")
    revision: str | None = Field(default=None, description="Hub revision; null for a local folder.")
    sha256: str = Field(description="sha256 over the names and hashes of the base's *.safetensors files.")


class ExpertEntry(_Strict):
    """One LoRA expert in PEFT format."""

    name: str = Field(description="Unique name; also the folder under experts/.")
    task: str = Field(description="Key of the task it was trained on, such as sst2.")
    path: str = Field(description="Folder relative to the zoo.")
    sha256: str = Field(description="sha256 of adapter_model.safetensors.")
    base_sha256: str = Field(description="The base it was trained on; loading onto another is refused.")


class RouterEntry(_Strict):
    """One trained router with its own settings."""

    name: str = Field(description="Unique name; also the folder under routers/.")
    method: str = Field(description="The fusion method it belongs to, such as moa.")
    path: str = Field(description="Folder relative to the zoo.")
    sha256: str = Field(description="sha256 of router.safetensors.")
    experts: tuple[str, ...] = Field(description="Expert names in the order of the router's outputs.")
    settings: dict[str, Any] = Field(description="What it was trained with: pool, training, seed, ...")
    adapters: tuple[ExpertEntry, ...] = Field(
        default=(),
        description="Experts trained jointly with this router; empty when it serves the zoo's own.",
    )


class AdapterEntry(_Strict):
    """One multi-task adapter, trained on the base for all tasks of a suite at once."""

    name: str = Field(description="Unique name: the folder under adapters/, such as moore/mtl7.")
    method: str = Field(description="The method it belongs to, such as moore.")
    options: dict[str, Any] = Field(description="The method's options that it was trained with.")
    trained_on: str = Field(description="Name of the suite it was trained on.")
    tasks: tuple[str, ...] = Field(description="Task keys in the order of their ids.")
    path: str = Field(description="Folder relative to the zoo.")
    sha256: str = Field(description="sha256 of adapter.safetensors.")
    base_sha256: str = Field(description="The base it was trained on; loading onto another is refused.")
    parameters: int = Field(description="Numbers trained.")
    settings: dict[str, Any] = Field(description="What it was trained with: steps, rows, seed, ...")


class Manifest(_Strict):
    """manifest.json of a zoo."""

    schema_: Literal["lorafuse.zoo/1"] = Field("lorafuse.zoo/1", alias="schema")
    name: str = Field(description="Name of the zoo; zoos that differ only in seed share it.")
    seed: int = Field(description="Seed that the zoo was built from.")
    base: BaseEntry
    init: Literal["shared", "independent"] = Field(
        description="Whether the experts started from one LoRA initialisation: merge-before needs shared."
    )
    experts: tuple[ExpertEntry, ...] = ()
    routers: tuple[RouterEntry, ...] = ()
    adapters: tuple[AdapterEntry, ...] = ()
    data: str = Field(description="Data source of training: hub, mini, or a folder relative to the zoo.")
    max_length: int | None = Field(
        default=None,
        ge=8,
        description="Tokens of prompt and answer at most, in training and, unless told otherwise, in evaluation;"
        " null for the base's own length.",
    )
    training: dict[str, Any] = Field(default_factory=dict, description="Settings the zoo was trained with.")


class Zoo:
    """A zoo directory opened for reading.

    `Zoo.open("mini")` is the embedded zoo; any other name is a directory with a manifest.json.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    def open(cls, name: str | Path = EMBEDDED) -> Zoo:
        """Read a zoo's manifest; LorafuseError when the directory or the manifest is not right."""
        root = embedded_root() if str(name) == EMBEDDED else Path(name)
        path = root / "manifest.json"
        if not path.is_file():
            raise LorafuseError(
                f"zoo '{name}' not found: no {path}. Name a zoo directory, or '{EMBEDDED}' for the embedded one;"
                f" `lorafuse train` makes one, `lorafuse zoo index` describes existing PEFT adapters."
            )
        try:
            return cls(root, Manifest.model_validate_json(path.read_text()))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "file"
            raise LorafuseError(
                f"{path}: {where}: {first['msg']}. Rebuild or correct the manifest."
            ) from error

    @property
    def name(self) -> str:
        return self.manifest.name

    def base_folder(self) -> Path:
        """Local folder of the base, downloaded from the hub if need be; its weights' hash is checked."""
        base = self.manifest.base
        folder = local_model(self.root / base.path, base.path, base.revision)
        if weights_sha256(folder) != base.sha256:
            raise LorafuseError(
                f"the base of zoo '{self.name}' in {folder} is not the one its experts were trained on:"
                f" sha256 {weights_sha256(folder)[:12]}, expected {base.sha256[:12]}. Restore it, or rebuild the zoo."
            )
        return folder

    @property
    def data_source(self) -> str:
        """Where this zoo's data comes from: `hub`, `mini`, or a directory."""
        source = self.manifest.data
        return source if source in ("hub", EMBEDDED) else str((self.root / source).resolve())

    def save(self) -> None:
        """Write manifest.json."""
        write_json(self.root / "manifest.json", self.manifest.model_dump(by_alias=True, mode="json"))

    def sha256(self) -> str:
        """sha256 of manifest.json, which pins every artefact by its own hash."""
        return sha256_file(self.root / "manifest.json")


def embedded_root() -> Path:
    """Directory of the zoo shipped in the package."""
    return Path(str(files("lorafuse_bench.zoo"))) / EMBEDDED


def local_model(folder: Path, repo: str, revision: str | None = None) -> Path:
    """`folder` if it exists, else the embedded zoo's base for `mini`, else a snapshot of the hub's `repo`."""
    if folder.is_dir():
        return folder
    if repo == EMBEDDED:
        return embedded_root() / "base"
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise LorafuseError(
            f"base model '{repo}' is neither a folder nor a hub model that can be downloaded now"
            f" ({type(error).__name__}). Check the name and the connection."
        ) from error


def weights_sha256(folder: str | Path) -> str:
    """Hash of a model folder's weights: over the names and hashes of its *.safetensors files."""
    return sha256_files(Path(folder), "*.safetensors")
