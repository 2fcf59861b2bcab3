"""A server that speaks the hub's protocol: what ``huggingface_hub`` asks to push and pull files.

Repositories live in memory, with commits, large files by their SHA-256 (the LFS protocol) and small
ones in the commit. Writing needs a token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_test"
#: A repository, whichever of its routes is asked.
_REPO = r"(?:api/)?(?P<kind>datasets|models)/(?P<repo>[^/]+/[^/]+?)"
_LARGE = (".safetensors", ".parquet")


class Hub(ThreadingHTTPServer):
    """The server; ``files`` and ``commits`` are what a test looks at."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.large: dict[str, bytes] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repo: str, revision: str = "main") -> tuple[str, dict[str, bytes]] | None:
        commits = self.commits.get(repo)
        if not commits:
            return None
        if revision == "main":
            return commits[-1]
        return next((c for c in commits if c[0] == revision), None)

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> str:
        files = dict(self.files(repo)[1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commits = self.commits[repo]
        sha = hashlib.sha1(f"{repo}{len(commits)}".encode()).hexdigest()
        commits.append((sha, files))
        return sha


def _entry(name: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(data).hexdigest()
    return {"type": "file", "path": name, "size": len(data), "oid": oid}


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, data: Any, status: int = 200) -> None:
        self._send(status, json.dumps(data).encode(), Content_Type="application/json")

    def _no(self, status: int, code: str, message: str) -> None:
        self._send(status, b"{}", X_Error_Code=code, X_Error_Message=message)

    @property
    def _path(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        body, path, hub = self._body(), self._path, self.server
        hub.asked.append(f"POST {path}")
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        found = re.fullmatch(rf"{_REPO}/paths-info/(?P<revision>[^/]+)", path)
        if found and (at := hub.files(found["repo"], found["revision"])):
            form = json.loads(body) if body[:1] == b"{" else parse_qs(body.decode())
            return self._json([_entry(p, at[1][p]) for p in form["paths"] if p in at[1]])
        if not self._known:
            return self._no(401, "", "Invalid username or password.")
        if path == "api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            url = f"{hub.url}/{asked['type']}s/{repo}"
            if repo in hub.commits:
                return self._json({"error": "You already created this repo", "url": url}, 409)
            hub.commits[repo] = [("0" * 40, {".gitattributes": b"*.safetensors filter=lfs\n"})]
            if asked.get("visibility") == "private" or asked.get("private"):
                hub.private.add(repo)
            return self._json({"url": url, "id": repo, "name": repo})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = []
            for each in json.loads(body)["objects"]:
                if each["oid"] not in hub.large:
                    each["actions"] = {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}
                objects.append(each)
            return self._json({"transfer": "basic", "objects": objects})
        found = re.fullmatch(rf"{_REPO}/(?P<what>preupload|commit)/(?P<revision>.+)", path)
        if found is None or found["repo"] not in hub.commits:
            return self._no(404, "RepoNotFound", "Repository not found")
        if found["what"] == "preupload":
            files = [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if f["path"].endswith(_LARGE) else "regular"}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            return self._json({"files": files})
        sha = hub.commit(found["repo"], [json.loads(line) for line in body.splitlines()])
        url = f"{hub.url}/datasets/{found['repo']}/commit/{sha}"
        return self._json({"commitUrl": url, "commitOid": sha, "hookOutput": "", "success": True})

    def do_PUT(self) -> None:
        body, oid = self._body(), self._path.removeprefix("lfs/")
        if hashlib.sha256(body).hexdigest() != oid:
            return self._no(400, "", "the content is not what was announced")
        self.server.large[oid] = body
        return self._send(200)

    def do_GET(self) -> None:
        path, hub = self._path, self.server
        hub.asked.append(f"{self.command} {path}")
        found = re.fullmatch(
            rf"{_REPO}(?:/(?P<what>revision|tree|resolve)/(?P<revision>[^/]+)(?:/(?P<file>.+))?)?",
            path,
        )
        repo = found["repo"] if found else ""
        at = hub.files(repo, (found and found["revision"]) or "main")
        if found is None or repo not in hub.commits or (repo in hub.private and not self._known):
            return self._no(404, "RepoNotFound", "Repository not found")
        if repo in hub.gated:
            return self._no(403, "GatedRepo", "Access to this resource is restricted")
        if at is None:
            return self._no(404, "RevisionNotFound", "Invalid rev id")
        sha, files = at
        if found["what"] == "resolve":
            if found["file"] not in files:
                return self._no(404, "EntryNotFound", "Entry not found")
            data = files[found["file"]]
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            return self._send(200, data, ETag=etag, X_Repo_Commit=sha)
        if found["what"] == "tree":
            return self._json([_entry(name, data) for name, data in files.items()])
        siblings = [{"rfilename": name} for name in files]
        return self._json(
            {"id": repo, "sha": sha, "siblings": siblings, "tags": [], "private": False,
             "gated": False, "disabled": False, "downloads": 0, "likes": 0}
        )  # fmt: skip

    do_HEAD = do_GET  # noqa: N815  # as the standard library names it
