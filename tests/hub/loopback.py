"""A stand-in for the Hub on this machine: the endpoints that pushing and loading models use, with real commits.

Files ending in ``.safetensors`` go through git LFS, the others into the commit itself. There is no Xet storage, so
clients need ``HF_HUB_DISABLE_XET=1``.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml


TOKEN = "hf_right"
Files = dict[str, bytes]


def is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def blob_id(path: str, data: bytes) -> str:
    """What git, or for large files LFS, calls the content."""
    return (hashlib.sha256(data) if is_large(path) else hashlib.sha1(b"blob %d\0%b" % (len(data), data))).hexdigest()


@dataclass
class Repository:
    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})

    def commit(self, branch: str, files: Files) -> str:
        history = [len(self.commits), *sorted((path, blob_id(path, data)) for path, data in files.items())]
        commit_id = hashlib.sha1(repr(history).encode()).hexdigest()
        self.commits[commit_id], self.branches[branch] = files, commit_id
        return commit_id

    def find(self, revision: str) -> str:
        commit_id = self.branches.get(revision, revision)
        if commit_id not in self.commits:
            raise Refusal(404, "RevisionNotFound")
        return commit_id

    @property
    def head(self) -> str:
        return self.branches["main"]

    @property
    def files(self) -> Files:
        return self.commits[self.head]


class Refusal(Exception):
    """An answer that is not 200: its status, its X-Error-Code, and its body."""


class LoopbackHub(ThreadingHTTPServer):
    """The server, as a context manager.

    ``broken`` has pairs of ``"put"`` or ``"commit"`` and a number: the n-th such request breaks off halfway.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.objects: Files = {}
        self.requests: Counter[str] = Counter()
        self.broken: set[tuple[str, int]] = set()
        self.lock = threading.Lock()

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def breaks_off(self, request: str) -> bool:
        with self.lock:
            self.requests[request] += 1
            return (request, self.requests[request]) in self.broken


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise every answer waits for the other side to acknowledge its head.
    disable_nagle_algorithm = True
    server: LoopbackHub

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        try:
            token = self.headers.get("Authorization")
            if token not in (None, f"Bearer {TOKEN}"):
                raise Refusal(401, "", {"error": "Invalid credentials in Authorization header"})
            for method, pattern, function in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method == self.command.replace("HEAD", "GET"):
                    return function(self, *match.groups())
            raise Refusal(404, "EntryNotFound")
        except Refusal as refusal:
            status, code, *body = refusal.args
            self.send(*body or [{}], status=status, headers={"X-Error-Code": code})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *arguments: object) -> None:
        """Keep the tests' output clean."""

    def repository(self, repo_id: str) -> Repository:
        if repo_id not in self.server.repositories:
            raise Refusal(404, "RepoNotFound")
        return self.server.repositories[repo_id]

    def must_write(self) -> None:
        if "Authorization" not in self.headers:
            raise Refusal(401, "", {"error": "Invalid username or password."})

    def whoami(self) -> None:
        self.must_write()
        self.send({"type": "user", "name": "tester", "auth": {"accessToken": {"role": "write"}}})

    def create(self) -> None:
        request = json.loads(self.body())
        self.must_write()
        repo_id = f"{request['organization'] or 'tester'}/{request['name']}"
        status = 409 if repo_id in self.server.repositories else 200
        if status == 200:
            self.server.repositories[repo_id] = Repository(private=request.get("visibility") == "private")
        self.send({"url": f"{self.server.url}/{repo_id}"}, status)

    def validate_yaml(self) -> None:
        content = json.loads(self.body())["content"]
        try:
            yaml.safe_load(content.split("---")[1] if content.startswith("---") else "")
        except yaml.YAMLError as error:
            raise Refusal(400, "", {"errors": [{"message": str(error)}]}) from error
        self.send({"errors": [], "warnings": []})

    def info(self, repo_id: str, revision: str | None) -> None:
        repository = self.repository(repo_id)
        commit_id = repository.find(revision or "main")
        siblings = [{"rfilename": path} for path in repository.commits[commit_id]]
        self.send({"id": repo_id, "sha": commit_id, "private": repository.private, "siblings": siblings, "tags": []})

    def tree(self, repo_id: str, revision: str, below: str | None) -> None:
        repository = self.repository(repo_id)
        files = repository.commits[repository.find(revision)]
        entries = [
            {"type": "file", "path": path, "size": len(data), "oid": blob_id(path, data)}
            for path, data in files.items()
            if path.startswith(below or "")
        ]
        if not entries:
            raise Refusal(404, "EntryNotFound")
        self.send(entries)

    def branch(self, repo_id: str, name: str) -> None:
        self.body()
        self.must_write()
        branches = self.repository(repo_id).branches
        status = 409 if name in branches else 200
        branches.setdefault(name, branches["main"])
        self.send({}, status)

    def preupload(self, repo_id: str, revision: str) -> None:
        request = json.loads(self.body())
        self.must_write()
        repository = self.repository(repo_id)
        files = repository.commits[repository.find(revision)]
        ignored = request.get("gitIgnore", files.get(".gitignore", b"").decode()).split()
        self.send(
            {
                "files": [
                    {
                        "path": path,
                        "uploadMode": "lfs" if is_large(path) else "regular",
                        "shouldIgnore": any(fnmatch(path, pattern) for pattern in ignored),
                        "oid": blob_id(path, files[path]) if path in files else None,
                    }
                    for path in (file["path"] for file in request["files"])
                ]
            }
        )

    def batch(self, repo_id: str) -> None:
        request = json.loads(self.body())
        self.must_write()
        self.repository(repo_id)
        objects = [{"oid": entry["oid"], "size": entry["size"]} for entry in request["objects"]]
        for entry in objects:
            if entry["oid"] not in self.server.objects:
                entry["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}"}}
        self.send({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        if self.server.breaks_off("put"):
            self.rfile.read(1000)
            self.close_connection = True
            return
        data = self.body()
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refusal(400, "", {"error": "checksum mismatch"})
        self.server.objects[oid] = data
        self.send({})

    def commit(self, repo_id: str, branch: str) -> None:
        lines = [json.loads(line) for line in self.body().splitlines()]
        self.must_write()
        if self.server.breaks_off("commit"):
            self.close_connection = True
            return
        repository = self.repository(repo_id)
        parent = repository.find(branch)
        files = dict(repository.commits[parent])
        for line in lines:
            kind, value = line["key"], line["value"]
            if kind == "header" and value.get("parentCommit", parent) != parent:
                raise Refusal(412, "", {"error": "the branch has moved"})
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif kind == "deletedFile":
                del files[value["path"]]
        commit_id = repository.commit(branch, files)
        self.send({"commitUrl": f"{self.server.url}/{repo_id}/commit/{commit_id}", "commitOid": commit_id})

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        repository = self.repository(repo_id)
        commit_id = repository.find(revision)
        files = repository.commits[commit_id]
        headers = {"X-Repo-Commit": commit_id}
        if path not in files:
            return self.send({}, 404, {**headers, "X-Error-Code": "EntryNotFound"})
        self.send(files[path], headers={**headers, "ETag": f'"{blob_id(path, files[path])}"'})


REPO = "([^/]+/[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("GET", f"/api/models/{REPO}(?:/revision/(.+))?", Handler.info),
    ("GET", f"/api/models/{REPO}/tree/([^/]+)(?:/(.+))?", Handler.tree),
    ("POST", f"/api/models/{REPO}/branch/(.+)", Handler.branch),
    ("POST", f"/api/models/{REPO}/preupload/(.+)", Handler.preupload),
    ("POST", f"/api/models/{REPO}/commit/(.+)", Handler.commit),
    ("POST", f"/{REPO}.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/lfs/(.+)", Handler.put),
    ("GET", f"/{REPO}/resolve/([^/]+)/(.+)", Handler.resolve),
]
