"""Starts the real programs for tests: a coordinator with its own state, nodes, the CLI, HTTP requests.

Every process that a test starts is ended by the object that started it, and dies with the test's own process; nothing is found by name.
"""
import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("LONGHAUL_BIN_DIR", ROOT / "build" / "bin"))
GGUF = pathlib.Path(os.environ.get("LONGHAUL_GGUF", pathlib.Path.home() / ".cache/longhaul/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
FINALS = ("succeeded", "failed", "cancelled", "timed_out")


def real_model():
    """The real model's file; the test is skipped where it is not."""
    if not GGUF.exists():
        pytest.skip(f"no {GGUF} (deploy/quickstart fetches it; or set LONGHAUL_GGUF)")
    return GGUF


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


def request(url, method="GET", body=None, headers=None, timeout=60):
    """One HTTP request; statuses of 400 and above are replies, not exceptions."""
    data = None
    headers = dict(headers or {})
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    q = urllib.request.Request(url, data=data, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(q, timeout=timeout) as r:
            return Reply(r.status, r.headers, r.read())
    except urllib.error.HTTPError as e:
        return Reply(e.code, e.headers, e.read())


def wait_until(condition, timeout=30, what="condition", every=0.05):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(every)
    raise AssertionError(f"not within {timeout} s: {what}")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def children_of(pid):
    """Live descendants of a process, by /proc."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat[stat.rindex(")") + 2:].split()[1])
    found, frontier = [], [pid]
    while frontier:
        parent = frontier.pop()
        for child, p in parents.items():
            if p == parent:
                found.append(child)
                frontier.append(child)
    return found


PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def dying_with_us():
    """A preexec_fn: when the test's process is gone, however it ended, so is the child."""
    parent = os.getpid()

    def before_exec():
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


class Daemon:
    """A process that the test started, in a session of its own, with its output in a file."""

    process = None
    log = None

    def spawn(self, command, env):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True,
                                            preexec_fn=dying_with_us())

    def kill(self):
        """kill -9, as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout=30):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Coordinator(Daemon):
    """longhauld with a state directory of its own; by default --standalone, with its node."""

    def __init__(self, state, *args, standalone=True, slots=2, env=None, prefix=()):
        self.state = pathlib.Path(state)
        self.args = [str(a) for a in args]
        if "--listen" not in self.args:
            self.args += ["--listen", "127.0.0.1:0"]
        if standalone:
            self.args += ["--standalone", "--slots", str(slots)]
        self.env = {**os.environ, **(env or {})}
        self.prefix = [str(p) for p in prefix]
        self.url = None

    def start(self, timeout=30):
        self.state.mkdir(parents=True, exist_ok=True)
        (self.state / "address").unlink(missing_ok=True)  # of one that was killed
        self.log = self.state.parent / f"{self.state.name}.log"
        self.spawn([*self.prefix, str(BIN / "longhauld"), "--state", str(self.state), *self.args], self.env)
        address = self.state / "address"

        def ready():
            assert self.process.poll() is None, f"longhauld ended {self.process.returncode}:\n{self.log.read_text()[-3000:]}"
            return address.exists() and address.read_text().strip()

        self.url = wait_until(ready, timeout, "longhauld is ready")
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, *error):
        if self.process.poll() is None:
            for job in self.get("/v1/jobs?state=pending,active&limit=500").json.get("jobs", []):
                self.post(f"/v1/jobs/{job['id']}/cancel")
            try:
                wait_until(lambda: not self.get("/v1/jobs?state=active").json.get("jobs"), 20, "jobs are cancelled")
            except AssertionError:
                pass
        self.stop()

    def get(self, path, **k):
        return request(self.url + path, **k)

    def post(self, path, body=None, **k):
        return request(self.url + path, "POST", body if body is not None else b"", **k)

    def submit(self, job, **k):
        reply = self.post("/v1/jobs", job, **k)
        assert reply.status == 201, (reply.status, reply.body)
        return reply.json["id"]

    def job(self, job_id):
        return self.get(f"/v1/jobs/{job_id}").json

    def wait(self, job_id, state=FINALS, timeout=60):
        states = (state,) if isinstance(state, str) else tuple(state)

        def there():
            job = self.job(job_id)
            if job["state"] in FINALS and job["state"] not in states:
                raise AssertionError(f"{job_id} ended {job['state']} while waiting for {states}: {job.get('error')}")
            return job if job["state"] in states else None

        return wait_until(there, timeout, f"{job_id} is {states}", every=0.1)

    def cli(self, *words, timeout=60, **k):
        return subprocess.run([str(BIN / "longhaul"), "--server", self.url, *[str(w) for w in words]], text=True,
                              capture_output=True, timeout=timeout, **k)


class Node(Daemon):
    """A longhaul-node started by hand, for tests with more than one."""

    def __init__(self, url, name, state, *args, slots=1, prefix=(), env=None):
        self.state = pathlib.Path(state)
        self.log = self.state.parent / f"{self.state.name}.log"
        self.command = [*[str(p) for p in prefix], str(BIN / "longhaul-node"), "--coordinator", url, "--name", name,
                        "--state", str(state), "--slots", str(slots), *[str(a) for a in args]]
        self.env = {**os.environ, **(env or {})}

    def start(self):
        self.state.mkdir(parents=True, exist_ok=True)
        self.spawn(self.command, self.env)
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, *error):
        self.stop()


def check_job(seconds=1.0, slots=1, **more):
    """The cheapest real job: a gang tests itself."""
    return {"name": "check", "kind": "check", "check": {"seconds": seconds, "allreduce_mib": 1, "matrix": 64},
            "resources": {"slots": slots, "threads": 1}, **more}
