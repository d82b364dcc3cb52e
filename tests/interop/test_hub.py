"""Models of the hub, from a hub on this machine: what is needed is fetched, the cache serves without it, errors name the cure."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from foretell.base.errors import CapacityError, ModelError, SettingError
from foretell.interop.hub import fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAFE = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "README.md": b"#",
    "onnx/model.onnx": b"o",
}
SHARDED = {"config.json": b"{}", "model.safetensors.index.json": b"{}", "model-00001-of-00002.safetensors": b"1"}
SHARDED |= {"model-00002-of-00002.safetensors": b"2", "model.fp16.safetensors": b"half", "modeling_own.py": b"code"}
OLD = {"config.json": b"{}", "pytorch_model.bin": b"pickle", "vocab.json": b"{}", "merges.txt": b"", "tf_model.h5": b"tf"}
MODELS = {"owner/safe": SAFE, "owner/sharded": SHARDED, "owner/old": OLD, "owner/gated": {}}


class Hub(ThreadingHTTPServer):
    """As much of the hub's interface as a download needs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url, self.asked, self.broken = f"http://127.0.0.1:{self.server_port}", list[str](), False


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append(path := self.path.partition("?")[0])
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name, kind, revision = "/".join(parts[:2]), parts[2], parts[3]
        if self.server.broken:
            return self.answer(503, b"")
        if name not in MODELS:
            return self.answer(404, b"", **{"X-Error-Code": "RepoNotFound"})
        if name == "owner/gated":
            return self.answer(403, b"", **{"X-Error-Code": "GatedRepo"})
        if revision not in ("main", COMMIT):
            return self.answer(404, b"", **{"X-Error-Code": "RevisionNotFound"})
        files = MODELS[name]
        if kind == "revision":
            return self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
        if kind == "tree":
            listing = [{"type": "file", "path": file, "size": len(data), "oid": f"{file}-tag"} for file, data in files.items()]
            return self.answer(200, json.dumps(listing).encode())
        file = "/".join(parts[4:])
        return self.answer(200, files[file], ETag=f'"{file.replace("/", "-")}-tag"', **{"X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nobody at the hub's address."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    address(monkeypatch, "http://127.0.0.1:9")
    return tmp_path / "hub"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        address(monkeypatch, server.url)
        yield server
        server.shutdown()


def address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def refused(*words: str, name: str = "owner/safe", **which: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        fetch(name, **which)
    assert all(word in str(caught.value) for word in (name, *words)), str(caught.value)
    assert len(str(caught.value).splitlines()) == 3
    return caught.value


def put_in_cache(cache: Path, name: str, files: dict[str, bytes]) -> Path:
    """A model in the cache as the hub's library lays it out."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for place in (folder / "refs", folder / "blobs", snapshot):
        place.mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    for file, data in files.items():
        (folder / "blobs" / f"{file}-tag").write_bytes(data)
        (snapshot / file).symlink_to(f"../../blobs/{file}-tag")
    return snapshot


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "safe").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert fetch("owner/safe") == Path("owner/safe")
    assert fetch(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "name", ["gpt2", "a/b/c", "../x", "./model", "owner/..", "owner/a..b", "owner/a--b", "-o/x", "owner/x.", "o/ x", "ö/x", "o/x?y"]
)
def test_what_is_no_name(name: str, cache: Path) -> None:
    assert "owner/name" in refused("neither a folder nor the name", name=name).cure


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("owner/safe", {"config.json", "model.safetensors"}),
        ("owner/sharded", {*SHARDED} - {"model.fp16.safetensors", "modeling_own.py"}),
        ("owner/old", {*OLD} - {"tf_model.h5"}),
    ],
)
def test_only_what_is_needed_is_fetched(name: str, wanted: set[str], hub: Hub, cache: Path) -> None:
    folder = fetch(name)
    assert folder.is_relative_to(cache) and names(folder) == wanted
    assert all((folder / file).read_bytes() == MODELS[name][file] for file in wanted)
    assert fetch(name, revision=COMMIT) == folder


def test_the_cache_serves_when_the_hub_does_not(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch("owner/old")
    hub.broken = True
    assert fetch("owner/old") == folder and names(folder) == {*OLD} - {"tf_model.h5"}
    address(monkeypatch, "http://127.0.0.1:9")
    assert fetch("owner/old") == folder


@pytest.mark.parametrize("offline", [True, False])
def test_a_cache_that_another_program_filled(offline: bool, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    folder = put_in_cache(cache, "owner/safe", {"config.json": b"{}", "model.safetensors": b"weights"})
    assert fetch("owner/safe") == folder.resolve()
    assert not offline or fetch("owner/safe", revision=COMMIT) == folder.resolve()  # without the setting the library tries for long
    refused("cannot be reached", revision="v2")


def test_offline_and_not_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    assert "with a network" in refused("the hub cannot be reached and the cache holds no whole copy").cure
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused("the hub cannot be reached and the cache holds no whole copy").cure


def test_unknown_gated_and_other_revisions(hub: Hub) -> None:
    refused("no such folder here and no such model on the hub", name="owner/nobody")
    refused("given only on request", "hf auth login", name="owner/gated")
    refused("no revision v9", revision="v9")
    hub.broken = True
    refused("cannot be reached")


def test_a_download_that_breaks_off_uses_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder, real = (
        put_in_cache(cache, "owner/safe", {"config.json": b"{}", "model.safetensors": b"weights"}),
        huggingface_hub.snapshot_download,
    )

    def breaks(*given: Any, local_files_only: bool = False, **which: Any) -> str:
        if not local_files_only:
            raise RuntimeError("peer closed the connection\nsecond line")
        return str(real(*given, local_files_only=True, **which))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", breaks)
    assert fetch("owner/safe") == folder.resolve()
    refused("peer closed the connection", name="owner/other")


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, CapacityError), (errno.EACCES, SettingError)])
def test_the_disks_fault_is_not_the_networks(code: int, kind: type, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def full(*_: Any, **__: Any) -> str:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(kind):
        fetch("owner/safe")
