"""The part of a W&B server that a run needs, in this process: it answers as the real one and keeps what it is sent."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROJECT = {"id": "p", "name": "ears", "entity": {"id": "e", "name": "me"}}
SERVER_INFO = {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": None}


class WandbServer(ThreadingHTTPServer):
    """Its port is free; ``history`` has the lines of each run by its id, ``exit_codes`` what ended runs have told."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.history, self.exit_codes = {}, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def rows(self):
        """What the only run has recorded."""
        (lines,) = self.history.values()
        return [json.loads(line) for line in lines]

    def vanish(self):
        self.shutdown()
        self.server_close()

    def answer(self, operation, variables, query):
        """A GraphQL query's ``data``."""
        run = variables.get("name")
        if operation == "RunResumeStatus":
            return {"model": PROJECT | {"bucket": self.resumed(run) if run in self.history else None}}
        if operation == "UpsertBucket":
            bucket = {
                "id": run, "name": run, "displayName": run, "description": "", "config": "{}", "sweepName": None,
                "historyLineCount": len(self.history.get(run, [])), "project": PROJECT,
            }  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables.get("files", [])]
            return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}
        if "viewer" in query.lower():
            viewer = {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
            return {"viewer": viewer, "serverInfo": SERVER_INFO}
        return {"serverInfo": SERVER_INFO}

    def resumed(self, run):
        """By which a client knows where a run is to go on: behind its last line."""
        lines = self.history[run]
        return {
            "id": run, "name": run, "displayName": run, "summaryMetrics": lines[-1], "logLineCount": 0,
            "historyLineCount": len(lines), "eventsLineCount": 0, "historyTail": json.dumps(lines[-1:]),
            "eventsTail": "[]", "config": "{}", "tags": [], "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments):
        pass

    def do_GET(self):
        self.reply({})

    def do_PUT(self):
        self.body()
        self.reply({})

    def do_POST(self):
        content = json.loads(self.body())
        if "file_stream" in self.path:
            run = self.path.split("/")[-2]
            if sent := (content.get("files") or {}).get("wandb-history.jsonl"):
                lines = self.server.history.setdefault(run, [])
                lines[sent["offset"] :] = sent["content"]
            if content.get("complete"):
                self.server.exit_codes.append(content.get("exitcode"))
            self.reply({})
            return
        query = content.get("query", "")
        self.reply({"data": self.server.answer(content.get("operationName"), content.get("variables") or {}, query)})

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while length := int(self.rfile.readline(), 16):
                content += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def reply(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
