"""A Hugging Face hub on loopback: what `huggingface_hub` asks of it to make a repository and to commit files."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_testtoken"


class FakeHub:
    """The content of the hub, and how it misbehaves."""

    def __init__(self) -> None:
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        """The files of each repository's main branch."""
        self.commits: dict[str, list[str]] = {}
        self.objects: dict[str, bytes] = {}
        """LFS objects by SHA-256, committed or not."""
        self.puts: list[str] = []
        """SHA-256 of each object that was sent, in order."""
        self.drop_puts: set[int] = set()
        """Drop the connection in the middle of these uploads, counted from 1."""
        self.at_commit = threading.Event()
        """Set when a commit is asked for."""
        self.hold_commit = threading.Event()
        """Answer no commit until it is set."""
        self.hold_commit.set()
        self.refuse_writes = False
        self.requests: list[str] = []
        self.address = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """The status and the JSON for a request."""
        parts = urlsplit(path).path.strip("/").split("/")
        if parts[:2] == ["api", "whoami-v2"]:
            return 200, {"type": "user", "name": "someone", "auth": {}}
        if parts[:3] == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts[:2] == ["api", "validate-yaml"]:
            return 200, {"errors": [], "warnings": []}
        if parts[-3:] == ["lfs", "objects", "batch"]:
            return self._batch(json.loads(body))
        if parts[0] == "put" and method == "PUT":
            return self._put(parts[1], body)
        repo, rest = "/".join(parts[2:4]), parts[4:]
        if repo not in self.files:
            return 404, {"error": "Repository not found"}
        if not rest or rest[0] == "revision":
            return 200, {
                "id": repo,
                "sha": self.commits[repo][-1],
                "private": self.private[repo],
                "siblings": [{"rfilename": name} for name in self.files[repo]],
            }
        if rest[0] == "tree":
            return 200, [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files[repo].items()
            ]
        if rest[0] == "preupload":
            return 200, {"files": [self._mode(repo, each) for each in json.loads(body)["files"]]}
        if rest[0] == "commit":
            return self._commit(repo, body)
        return 404, {"error": f"the fake hub knows no {method} {path}"}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if self.refuse_writes:
            return 403, {"error": "this token may not write"}
        repo = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        if repo in self.files:
            return 409, {"error": "exists", "url": f"{self.address}/{repo}"}
        self.private[repo] = asked.get("private", False) or asked.get("visibility") == "private"
        self.files[repo], self.commits[repo] = {}, ["0" * 40]
        return 200, {"url": f"{self.address}/{repo}", "name": repo, "id": "1"}

    def _mode(self, repo: str, file: dict[str, Any]) -> dict[str, Any]:
        name = file["path"]
        data = self.files[repo].get(name)
        large = not name.endswith((".json", ".md", ".jinja")) or name == "tokenizer.json"
        oid = None if data is None else (hashlib.sha256(data) if large else hashlib.sha1(_blob(data))).hexdigest()
        return {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def _batch(self, asked: dict[str, Any]) -> tuple[int, Any]:
        objects = []
        for each in asked["objects"]:
            entry: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.objects:
                entry["actions"] = {"upload": {"href": f"{self.address}/put/{each['oid']}", "header": {}}}
            objects.append(entry)
        return 200, {"transfer": "basic", "objects": objects}

    def _put(self, oid: str, body: bytes) -> tuple[int, Any]:
        assert hashlib.sha256(body).hexdigest() == oid
        self.objects[oid] = body
        return 200, {}

    def _commit(self, repo: str, body: bytes) -> tuple[int, Any]:
        self.at_commit.set()
        self.hold_commit.wait(60)
        files = dict(self.files[repo])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"])
        self.files[repo] = files
        commit = hashlib.sha1(body).hexdigest()
        self.commits[repo].append(commit)
        return 200, {
            "success": True,
            "commitOid": commit,
            "commitUrl": f"{self.address}/{repo}/commit/{commit}",
            "hookOutput": "",
        }


def _blob(data: bytes) -> bytes:
    return b"blob %d\0" % len(data) + data


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that answers until the block ends; its address is that of HF_ENDPOINT."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            if self.headers.get("authorization") != f"Bearer {TOKEN}" and not self.path.startswith("/put/"):
                self._send(401, {"error": "no token"})
                return
            body = self._body()
            if body is not None:
                self._send(*hub.answer(self.command, self.path, body))

        def _body(self) -> bytes | None:
            length = int(self.headers.get("content-length") or 0)
            if self.command == "PUT":
                oid = self.path.rpartition("/")[2]
                hub.puts.append(oid)
                if len(hub.puts) in hub.drop_puts:
                    self.rfile.read(length // 2)
                    self.close_connection = True
                    self.connection.close()
                    return None
            if self.headers.get("transfer-encoding") == "chunked":
                return self._chunks()
            return self.rfile.read(length)

        def _chunks(self) -> bytes:
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

        def _send(self, status: int, said: Any) -> None:
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_HEAD = _answer  # noqa: N815 - names of the standard library

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
