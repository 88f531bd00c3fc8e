"""A small server that speaks the part of D-Wave's solver API that dwave-cloud-client uses, for tests without a network.

It is bound to 127.0.0.1 and solves what it gets with local solvers: real client libraries talk to it over real HTTP.

    python tests/sapi_server.py [PORT]          prints DWAVE_API_ENDPOINT=URL DWAVE_API_TOKEN=TOKEN, its own

It misbehaves on command. A fault names a route (or "solve", or "any"), what to do there, and how often:

    server.fault("submit", "drop-after")        accepts the job, then closes the connection without a reply
    curl -d '{"on": "poll", "do": "status", "code": 503, "times": 3}' URL/_control/fault

What to do: "status" (reply with `code`, `message`, and Retry-After where `retry_after` is given), "drop" (close at
once), "cut" (read half of the body, then close), "drop-after" (do the work, then close without a reply), "hang" (hold
the request for `seconds`, then close), "hang-after" (do the work, then likewise), "garbage" (reply with what is no
JSON); of "solve": "fail" with a `message`, "cancel", "hold" until `POST /_control/release`. `GET /_control/state` tells
what the server has seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import sys
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, str(Path(__file__).parent))

from sapi_solving import pegasus_solver, solved

TOKEN = "SECRET-0123456789abcdef0123456789abcdef01234567"

MEDIA = "application/vnd.dwave.sapi."

ROUTES = [
    ("GET", r"/solvers/remote/?", "solvers"),
    ("GET", r"/solvers/remote/(?P<name>.+?)/?", "solver"),
    ("POST", r"/bqm/multipart/?", "upload"),
    ("PUT", r"/bqm/multipart/(?P<data>[^/]+)/part/(?P<part>\d+)", "part"),
    ("GET", r"/bqm/multipart/(?P<data>[^/]+)/status", "upload-status"),
    ("POST", r"/bqm/multipart/(?P<data>[^/]+)/combine", "combine"),
    ("POST", r"/problems/?", "submit"),
    ("DELETE", r"/problems/?", "cancel"),
    ("GET", r"/problems/?", "poll"),
    ("GET", r"/problems/(?P<problem>[^/]+)/answer/data/?", "data"),
    ("GET", r"/problems/(?P<problem>[^/]+)/?", "answer"),
    ("GET", r"/_control/state", "state"),
    ("POST", r"/_control/(?P<what>fault|release|reset|offline|limits|forget)", "control"),
]

DONE = ("COMPLETED", "FAILED", "CANCELLED")


@dataclass
class Job:
    """A problem that the server has accepted."""

    id: str
    type: str
    solver: dict[str, Any]
    label: str | None
    data: dict[str, Any]
    params: dict[str, Any]
    submitted: str
    status: str = "PENDING"
    answer: dict[str, Any] | None = None
    binary: bytes = b""
    error: str = ""
    ended: str | None = None

    def told(self, with_answer: bool = False) -> dict[str, Any]:
        told = {
            "id": self.id, "type": self.type, "solver": self.solver, "label": self.label, "status": self.status,
            "submitted_on": self.submitted,
        }  # fmt: skip
        if self.ended:
            told["solved_on"] = self.ended
        if self.error:
            told["error_message"] = self.error
        if with_answer and self.status == "COMPLETED":
            told["answer"] = self.answer
        return told


@dataclass
class State:
    """All that the server knows."""

    solvers: dict[str, dict[str, Any]]
    token: str = TOKEN
    faults: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes] | bytes] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    labels: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    released: threading.Event = field(default_factory=threading.Event)

    def fault_at(self, route: str) -> dict[str, Any] | None:
        """The next fault of a route, used up by one."""
        with self.changed:
            for fault in self.faults:
                if fault["on"] in (route, "any") and fault.get("times", 1) > 0:
                    fault["times"] = fault.get("times", 1) - 1
                    return fault
        return None

    def seen(self) -> dict[str, Any]:
        with self.changed:
            statuses = {job.id: job.status for job in self.jobs.values()}
            return {"counts": dict(self.counts), "labels": list(self.labels), "jobs": statuses, "data": [*self.uploads]}


class Refused(Exception):
    """A reply that is an error of the API."""

    def __init__(self, code: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.retry_after = code, message, retry_after


class Dropped(Exception):
    """The connection is closed without a reply."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: SapiServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        state = self.server.state
        try:
            route, found = self._route(url.path)
            control = url.path.startswith("/_control")
            fault = None if control else state.fault_at(route)
            if not control:
                self.server.count(route)
            before(self, fault)
            body = self._body()
            if not control and self.headers.get("X-Auth-Token") != state.token:
                raise Refused(401, "Invalid token or access denied")
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            work = getattr(self, "on_" + route.replace("-", "_"))
            reply = work(body, query, **found.groupdict())
            if fault and fault["do"] in ("drop-after", "hang-after"):
                state.released.wait(fault.get("seconds", 0.0))
                raise Dropped
            if fault and fault["do"] == "garbage":
                reply = (b"<html>gateway</html>", reply[1])
            self._reply(200, *reply)
        except Refused as refused:
            told = json.dumps({"error_code": refused.code, "error_msg": refused.message}).encode()
            self._reply(refused.code, told, "application/json", refused.retry_after)
        except (Dropped, ConnectionError):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(2)

    do_POST = do_PUT = do_DELETE = do_GET

    def _route(self, path: str) -> tuple[str, re.Match[str]]:
        for method, pattern, route in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == self.command:
                return route, found
        raise Refused(404, f"no such resource: {self.command} {path}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return zlib.decompress(body) if self.headers.get("Content-Encoding") == "deflate" else body

    def _reply(self, code: int, body: bytes, media: str, retry_after: float | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", f"{retry_after:g}")
        if code >= 400:  # what is left of the body must not be read as the next request
            self.close_connection = True
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    # Solvers

    def on_solvers(self, body: bytes, query: dict[str, str]) -> tuple[bytes, str]:
        return as_json(list(self.server.state.solvers.values()), "solver-definition-list")

    def on_solver(self, body: bytes, query: dict[str, str], name: str) -> tuple[bytes, str]:
        if name not in self.server.state.solvers:
            raise Refused(404, f"Solver {name} does not exist")
        return as_json(self.server.state.solvers[name], "solver-definition")

    # Uploads

    def on_upload(self, body: bytes, query: dict[str, str]) -> tuple[bytes, str]:
        data = str(uuid.uuid4())
        self.server.state.uploads[data] = {}
        return as_json({"id": data})

    def on_part(self, body: bytes, query: dict[str, str], data: str, part: str) -> tuple[bytes, str]:
        parts = self.server.upload(data)
        if not isinstance(parts, dict):
            raise Refused(400, "the upload is complete")
        parts[int(part)] = body
        return as_json({})

    def on_upload_status(self, body: bytes, query: dict[str, str], data: str) -> tuple[bytes, str]:
        parts = self.server.upload(data)
        if not isinstance(parts, dict):
            return as_json({"status": "UPLOAD_COMPLETED", "parts": []})
        sums = [{"part_number": n, "checksum": hashlib.md5(part).hexdigest()} for n, part in sorted(parts.items())]
        return as_json({"status": "UPLOAD_IN_PROGRESS", "parts": sums})

    def on_combine(self, body: bytes, query: dict[str, str], data: str) -> tuple[bytes, str]:
        parts = self.server.upload(data)
        if isinstance(parts, dict):
            digests = b"".join(hashlib.md5(part).digest() for _, part in sorted(parts.items()))
            if json.loads(body)["checksum"] != hashlib.md5(digests).hexdigest():
                raise Refused(400, "the checksum of the parts differs")
            self.server.state.uploads[data] = b"".join(part for _, part in sorted(parts.items()))
        return as_json({})

    # Problems

    def on_submit(self, body: bytes, query: dict[str, str]) -> tuple[bytes, str]:
        return as_json([self.server.accept(job) for job in json.loads(body)], "problems")

    def on_poll(self, body: bytes, query: dict[str, str]) -> tuple[bytes, str]:
        state = self.server.state
        if "label" in query:
            self.server.count("look-up")
            return as_json([job.told() for job in state.jobs.values() if job.label == query["label"]], "problems")
        ids = query["id"].split(",")
        end = time.monotonic() + min(float(query.get("timeout", 0.0)), 5.0)
        with state.changed:
            jobs = [self.server.job(i) for i in ids]
            while not any(job.status in DONE for job in jobs) and time.monotonic() < end:
                state.changed.wait(end - time.monotonic())
        return as_json([job.told() for job in jobs], "problems")

    def on_answer(self, body: bytes, query: dict[str, str], problem: str) -> tuple[bytes, str]:
        return as_json(self.server.job(problem).told(with_answer=True), "problem")

    def on_data(self, body: bytes, query: dict[str, str], problem: str) -> tuple[bytes, str]:
        return self.server.job(problem).binary, "application/octet-stream"

    def on_cancel(self, body: bytes, query: dict[str, str]) -> tuple[bytes, str]:
        jobs = [self.server.job(i) for i in json.loads(body)]
        for job in jobs:
            if job.status not in DONE:
                self.server.end(job, "CANCELLED")
        return as_json([job.told() for job in jobs], "problems")

    # Control

    def on_state(self, body: bytes, query: dict[str, str]) -> tuple[bytes, str]:
        return as_json(self.server.state.seen())

    def on_control(self, body: bytes, query: dict[str, str], what: str) -> tuple[bytes, str]:
        given = json.loads(body or b"{}")
        state = self.server.state
        with state.changed:
            if what == "fault":
                state.faults.append(given)
            elif what == "release":
                state.released.set()
            elif what == "forget":
                state.uploads.clear()
            elif what == "offline":
                for name in given["solvers"]:
                    state.solvers[name]["status"] = given.get("status", "OFFLINE")
            elif what == "limits":
                state.solvers[given.pop("solver")]["properties"].update(given)
            else:
                state.released.set()
                qpus = {name: solver for name, solver in state.solvers.items() if not name.startswith("hybrid")}
                self.server.state = State(hybrid_solvers() | qpus)
        return as_json({})


class SapiServer(ThreadingHTTPServer):
    """The server, and the handle by which a test commands it.

    Args:
        port: where to listen on 127.0.0.1; 0 for any free port.
        pegasus: size of the QPU's Pegasus graph.
        delay: seconds that solving takes at least.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0, pegasus: int = 4, delay: float = 0.01) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        qpu = pegasus_solver(pegasus)
        self.state = State(hybrid_solvers() | {qpu["identity"]["name"]: qpu})
        self.delay = delay

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[SapiServer]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.state.released.set()
            self.shutdown()
            self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that was killed is no fault of ours
            super().handle_error(request, client_address)

    # Commands

    def fault(self, on: str, do: str, times: int = 1, **more: Any) -> None:
        """Misbehave on a route, so many times."""
        self.command("fault", on=on, do=do, times=times, **more)

    def command(self, what: str, **given: Any) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server_address[1], timeout=10)
        connection.request("POST", f"/_control/{what}", json.dumps(given))
        reply = connection.getresponse()
        assert reply.status == 200, reply.read()
        connection.close()

    @property
    def counts(self) -> Counter[str]:
        """Requests by route, and "accepted" jobs, "look-up"s of labels."""
        with self.state.changed:
            return Counter(self.state.counts)

    def count(self, what: str) -> None:
        with self.state.changed:
            self.state.counts[what] += 1

    # Work

    def upload(self, data: str) -> dict[int, bytes] | bytes:
        if data not in self.state.uploads:
            raise Refused(404, f"no problem data {data}")
        return self.state.uploads[data]

    def job(self, problem: str) -> Job:
        if problem not in self.state.jobs:
            raise Refused(404, f"Problem {problem} does not exist")
        return self.state.jobs[problem]

    def accept(self, given: dict[str, Any]) -> dict[str, Any]:
        """Check a job as the service does, and begin to solve it."""
        state = self.state
        solver = state.solvers.get(given["solver"]["name"])
        if solver is None:
            return {"error_code": 404, "error_msg": f"Solver {given['solver']['name']} does not exist"}
        properties, params = solver["properties"], given["params"]
        if given["type"] not in properties["supported_problem_types"]:
            return {"error_code": 400, "error_msg": f"Problem type {given['type']} is not supported"}
        data = given["data"]
        if data["format"] == "ref" and not isinstance(state.uploads.get(data["data"]), bytes):
            return {"error_code": 400, "error_msg": f"Problem data {data['data']} does not exist"}
        if unknown := set(params) - set(properties["parameters"]):
            return {"error_code": 400, "error_msg": f"Unknown parameter {sorted(unknown)}"}
        if params.get("time_limit", 1e9) < properties.get("refuses_below", 0.0):
            least = properties["refuses_below"]
            return {"error_code": 400, "error_msg": f"The time limit {params['time_limit']} is less than {least}"}
        largest = properties.get("refuses_bytes_above", 1 << 40)
        if data["format"] == "ref" and len(state.uploads[data["data"]]) > largest:
            return {"error_code": 400, "error_msg": f"The problem is too large: more than {largest} bytes"}
        job = Job(str(uuid.uuid4()), given["type"], given["solver"], given.get("label"), data, params, now())
        with state.changed:
            state.jobs[job.id] = job
            state.counts["accepted"] += 1
            state.labels.append(job.label or "")
        if solver["status"] != "ONLINE":
            self.end(job, "FAILED", "Solver is offline")
        else:
            threading.Thread(target=self._solve, args=(job, solver, state), daemon=True).start()
        return job.told()

    def _solve(self, job: Job, solver: dict[str, Any], state: State) -> None:
        fault = state.fault_at("solve")
        time.sleep(self.delay)
        do = fault["do"] if fault else ""
        if do == "hold":
            state.released.wait(60.0)
        elif do == "fail":
            return self.end(job, "FAILED", fault.get("message", "An error occurred"))
        elif do == "cancel":
            return self.end(job, "CANCELLED")
        data = job.data if job.data["format"] == "qp" else state.uploads[job.data["data"]]
        try:
            job.answer, job.binary = solved(job.type, data, job.params, solver)
        except Exception as error:  # a job that cannot be solved must end, or its client would wait forever
            return self.end(job, "FAILED", f"{type(error).__name__}: {error}")
        if job.type == "nl":
            job.answer["url"] = f"problems/{job.id}/answer/data/"
        self.end(job, "COMPLETED")

    def end(self, job: Job, status: str, error: str = "") -> None:
        with self.state.changed:
            if job.status not in DONE:
                job.status, job.error, job.ended = status, error, now()
            self.state.changed.notify_all()


def before(handler: Handler, fault: dict[str, Any] | None) -> None:
    """Misbehave before the work is done, where a fault says so."""
    do = fault["do"] if fault else ""
    if do == "status":
        raise Refused(fault["code"], fault.get("message", "as commanded"), fault.get("retry_after"))
    if do == "cut":
        handler.rfile.read(int(handler.headers.get("Content-Length") or 2) // 2)
        raise Dropped
    if do == "hang":
        handler.server.state.released.wait(fault["seconds"])
        raise Dropped
    if do == "drop":
        raise Dropped


def hybrid_solvers() -> dict[str, dict[str, Any]]:
    """Solvers as the service describes them, with limits and times small enough to meet them in a test."""
    common = {"category": "hybrid", "quota_conversion_rate": 20, "parameters": {"time_limit": "", "label": ""}}
    time_rules: dict[str, dict[str, Any]] = {
        "bqm": {"minimum_time_limit": [[1, 3.0], [1024, 3.0], [4096, 10.0]], "maximum_number_of_biases": 10**6},
        "cqm": {
            "minimum_time_limit_s": 5.0, "num_variables_multiplier": 1.57e-4, "num_biases_multiplier": 4.65e-6,
            "num_constraints_multiplier": 6.44e-9, "maximum_number_of_biases": 10**6,
            "maximum_number_of_constraints": 1000,
        },
        "nl": {
            "maximum_number_of_nodes": 10**5, "maximum_number_of_states": 1, "maximum_state_size": 10**8,
            "maximum_decision_state_size": 10**6, "min_time_limit": 5,
        },
    }  # fmt: skip
    return {
        f"hybrid_{kind}_test": {
            "identity": {"name": f"hybrid_{kind}_test"}, "status": "ONLINE", "description": f"local {kind} solver",
            "avg_load": 0.1,
            "properties": common | rules | {
                "supported_problem_types": [kind], "version": "1.0", "maximum_number_of_variables": 10**5,
                "maximum_time_limit_hrs": 1.0,
            },
        }
        for kind, rules in time_rules.items()
    }  # fmt: skip


def as_json(value: Any, kind: str | None = None) -> tuple[bytes, str]:
    media = "application/json" if kind is None else f"{MEDIA}{kind}+json; version=3.0.0"
    return json.dumps(value).encode(), media


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


if __name__ == "__main__":
    with SapiServer(int(sys.argv[1]) if len(sys.argv) > 1 else 0).running() as server:
        print(f"DWAVE_API_ENDPOINT={server.url} DWAVE_API_TOKEN={TOKEN}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
