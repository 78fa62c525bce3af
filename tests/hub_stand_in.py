"""A stand-in for the Hugging Face hub on this machine: repositories that are made, filled, listed and read."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_good"
FAULTS = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound")}


@dataclass
class Hub:
    """What the stand-in holds and was asked.

    `repos[name][file]` is the content of the one commit of a repository; `faults[name]`: gated or private;
    `readers`: tokens that may only read. A file in `cut` is sent half, once, and then the connection is closed. Files
    of `large` bytes and more are taken by Git LFS: sent to `stored` by their sha256, and named by that in the commit.
    """

    address: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)
    cut: list[str] = field(default_factory=list)
    large: float = math.inf
    stored: dict[str, bytes] = field(default_factory=dict)
    down: bool = False
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def commit(self, repo: str) -> str:
        """A hash of the content, as a commit's."""
        told = {name: hashlib.sha256(content).hexdigest() for name, content in self.repos[repo].items()}
        return hashlib.sha1(json.dumps(told, sort_keys=True).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = self._noted()
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if token != TOKEN:
            return self._json({"error": "no"}, 403 if token in self.hub.readers else 401)
        if path == "/api/repos/create":
            told = json.loads(body)
            name = "/".join(filter(None, (told.get("organization"), told["name"])))
            self.hub.repos.setdefault(name, {})
            return self._json({"url": f"{self.hub.address}/{name}", "name": name, "id": "1"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        repo = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            told = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["size"] >= self.hub.large else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            return self._json({"files": told})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.repos[repo][value["path"]] = self.hub.stored[value["oid"]]
        oid = self.hub.commit(repo)
        return self._json(
            {"commitUrl": f"{self.hub.address}/{repo}/commit/{oid}", "commitOid": oid, "success": True}
        )

    def do_PUT(self) -> None:
        """An upload of Git LFS."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self._noted().removeprefix("/lfs/")
        if hashlib.sha256(content).hexdigest() != oid:
            return self._json({"error": "another content"}, 400)
        self.hub.stored[oid] = content
        return self._json({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._noted()
        parts = path.strip("/").split("/")
        api = parts[0] == "api"
        repo = "/".join(parts[2:4] if api else parts[:2])
        fault = "private" if repo not in self.hub.repos else self.hub.faults.get(repo)
        if self.hub.down:
            self.close_connection = True
            return None
        if fault:
            status, code = FAULTS[fault]
            return self._json({"error": fault}, status, {"X-Error-Code": code})
        files, commit = self.hub.repos[repo], self.hub.commit(repo)
        revision = parts[5] if api and len(parts) > 5 else parts[3] if not api else "main"
        if revision not in ("main", "v1", commit):
            return self._json({"error": "none"}, 404, {"X-Error-Code": "RevisionNotFound"})
        if api and parts[4] == "tree":
            tree = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in files.items()
            ]
            return self._json(tree)
        if api:
            told = [{"rfilename": name} for name in files]
            return self._json({"id": repo, "sha": commit, "siblings": told, "private": False})
        return self._file("/".join(parts[4:]), files, commit)

    def _file(self, name: str, files: dict[str, bytes], commit: str) -> None:
        if name not in files:
            return self._json({"error": "none"}, 404, {"X-Error-Code": "EntryNotFound"})
        whole = files[name]
        asked = self.headers["Range"]
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        content = whole[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.send_header("ETag", f'"{hashlib.sha1(whole).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command != "HEAD":
            if name in self.hub.cut:
                self.hub.cut.remove(name)
                content, self.close_connection = content[: len(content) // 2], True
            self.wfile.write(content)
        return None

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        payload = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(payload)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def _noted(self) -> str:
        split = urlsplit(self.path)
        assert parse_qs(split.query) is not None
        path = unquote(split.path)
        self.hub.asked.append((self.command, path, self.headers["Authorization"]))
        return path

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, which this process takes for the hub, with an empty cache and a good token."""
    from huggingface_hub import constants

    from lorafuse_bench.zoo import locate

    held = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": held}))
    held.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", held.address)
    template = held.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    locate._hub_zoo.cache_clear()
    yield held
    locate._hub_zoo.cache_clear()
    server.shutdown()
