"""A Hugging Face Hub on loopback, which speaks what the real client asks of it: enough to upload and to download.

Repositories are made by ``/api/repos/create``, files go through preupload, Git LFS and a commit, and come back through
the tree and ``resolve``. Faults are put in by ``hub.faults``. The protocol is that of huggingface_hub's own calls, see
https://huggingface.co/docs/hub/api and https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

LOOPBACK = [
    pytest.mark.allow_hosts(["127.0.0.1"]),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # the client's, where it sends weights
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up <TemporaryDirectory:ResourceWarning"),  # where that fails
]
"""Marks of tests that talk with it; all other hosts stay blocked."""
TOKEN = "hf_stand_in_token"


@dataclass
class Fault:
    """What the Hub does wrong with requests whose path holds ``path``."""

    path: str
    status: int = 500
    times: int = 10**9
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    """Answers nothing until ``hub.released`` is set, and then as if nothing had been."""


@dataclass
class Repository:
    """A model repository: its commits are whole pictures of its files."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the newest commit."""
        return self.commits[self.head] if self.commits else {}


class HubStandIn:
    """Serves until ``close``; ``address`` is what HF_ENDPOINT is to be."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        """Method and path of every request, in order."""
        self.bodies: list[bytes] = []
        self.released = threading.Event()
        self.asked = threading.Condition()
        hub = self

        class Handler(_Handler):
            stand_in = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def fail(self, path: str, status: int = 500, **options: Any) -> None:
        """Put in a fault; see ``Fault``."""
        self.faults.append(Fault(path, status, **options))

    def wait_for(self, path: str, *, count: int = 1) -> None:
        """Wait until a path was asked for so many times; fails after a minute."""
        with self.asked:
            assert self.asked.wait_for(lambda: sum(path in asked for asked in self.requests) >= count, timeout=60)

    def close(self) -> None:
        """Stop serving: from now on the Hub is down."""
        if self.released.is_set():
            return
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    stand_in: HubStandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: Any) -> None:
        """Nothing on standard error."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, ValueError):  # a client that was stopped, while a fault held it up
            self.close_connection = True

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _serve(self) -> None:
        hub, path = self.stand_in, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = self._read_chunks()
        with hub.asked:
            hub.requests.append(f"{self.command} {path}")
            hub.bodies.append(body)
            hub.asked.notify_all()
        fault = next((fault for fault in hub.faults if fault.path in path and fault.times > 0), None)
        if fault:
            fault.times -= 1
            if not fault.hangs:
                return self._answer(fault.status, b"an error that is no JSON", headers=fault.headers)
            hub.released.wait()
        if not path.startswith("/store/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid credentials in Authorization header"})
        for pattern, method in ROUTES.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return method(self, *found.groups(), body=body)
        return self._answer(404, {"error": f"the stand-in has no {self.command} {path}"})

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: Any = b"", *, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _repository(self, name: str) -> Repository | None:
        found = self.stand_in.repositories.get(name)
        if not found:
            self._answer(404, {"error": "Repository not found"}, headers={"X-Error-Code": "RepoNotFound"})
        return found

    def create(self, *, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else f"me/{wanted['name']}"
        status = 409 if name in self.stand_in.repositories else 200
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.stand_in.repositories.setdefault(name, Repository(bool(private)))
        self._answer(status, {"url": f"{self.stand_in.address}/{name}", "name": name})

    def validate(self, *, body: bytes) -> None:
        assert json.loads(body)["content"].startswith("---\n")
        self._answer(200, {"errors": [], "warnings": []})

    def preupload(self, name: str, *, body: bytes) -> None:
        if repository := self._repository(name):
            files = json.loads(body)["files"]
            answers = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": _remote_oid(file["path"], repository.files),
                }
                for file in files
            ]
            self._answer(200, {"files": answers})

    def batch(self, name: str, *, body: bytes) -> None:
        if self._repository(name):
            objects = []
            for wanted in json.loads(body)["objects"]:
                answer = {"oid": wanted["oid"], "size": wanted["size"]}
                if wanted["oid"] not in self.stand_in.objects:
                    answer["actions"] = {"upload": {"href": f"{self.stand_in.address}/store/{wanted['oid']}"}}
                objects.append(answer)
            self._answer(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str, *, body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.stand_in.objects[oid] = body
        self._answer(200)

    def commit(self, name: str, *, body: bytes) -> None:
        if not (repository := self._repository(name)):
            return
        files = dict(repository.files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.stand_in.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = hashlib.sha1(f"{name} {len(repository.commits)}".encode()).hexdigest()
        repository.commits[commit] = files
        address = f"{self.stand_in.address}/{name}/commit/{commit}"
        self._answer(200, {"success": True, "commitUrl": address, "commitOid": commit})

    def info(self, name: str, revision: str | None = None, *, body: bytes) -> None:
        if repository := self._repository(name):
            siblings = [{"rfilename": path} for path in repository.files]
            self._answer(200, {"id": name, "sha": repository.head, "private": repository.private, "siblings": siblings})

    def tree(self, name: str, revision: str, *, body: bytes) -> None:
        if repository := self._repository(name):
            files = repository.files if revision == "main" else repository.commits[revision]
            self._answer(200, [_tree_entry(path, data) for path, data in files.items()])

    def resolve(self, name: str, revision: str, path: str, *, body: bytes) -> None:
        if repository := self._repository(name):
            revision = repository.head if revision == "main" else revision
            data = repository.commits[revision].get(path)
            headers = {"X-Repo-Commit": revision}
            if data is None:
                return self._answer(404, headers={**headers, "X-Error-Code": "EntryNotFound"})
            self._answer(200, data, headers={**headers, "ETag": f'"{_oid(data)}"'})


def _oid(data: bytes) -> str:
    """A file's name in Git."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _remote_oid(path: str, files: dict[str, bytes]) -> str | None:
    """By which the client sees that a file has not changed."""
    if path not in files:
        return None
    return hashlib.sha256(files[path]).hexdigest() if path.endswith(".safetensors") else _oid(files[path])


def _tree_entry(path: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}
    if path.endswith(".safetensors"):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


NAME, REVISION = r"([\w.-]+/[\w.-]+)", r"([\w.-]+)"
ROUTES = {
    "POST /api/repos/create": _Handler.create,
    "POST /api/validate-yaml": _Handler.validate,
    f"POST /api/models/{NAME}/preupload/main": _Handler.preupload,
    f"POST /{NAME}\\.git/info/lfs/objects/batch": _Handler.batch,
    r"PUT /store/(\w+)": _Handler.put,
    f"POST /api/models/{NAME}/commit/main": _Handler.commit,
    f"GET /api/models/{NAME}(?:/revision/{REVISION})?": _Handler.info,
    f"GET /api/models/{NAME}/tree/{REVISION}": _Handler.tree,
    f"(?:GET|HEAD) /{NAME}/resolve/{REVISION}/(.+)": _Handler.resolve,
}
