"""A coordinator that does what a test says: speaks the node protocol, decides nothing.

For tests of longhaul-node alone: commands are queued by the test, reports and files are kept for it to look at.
"""
import http.server
import json
import threading
import time
import urllib.parse

from longhaul import wait_until


class Scripted:
    def __init__(self, cluster="c1", epoch=1, lease_s=60):
        self.cluster, self.epoch, self.lease_s = cluster, epoch, lease_s
        self.lock = threading.Condition()
        self.registrations, self.reports, self.commands, self.files, self.polls = [], [], [], {}, []
        self.seq, self.agent, self.kill, self.port, self.server = 0, None, [], 0, None
        self.refuse = None  # (status, code): every request is answered so
        self.start()

    def start(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *a):
                pass

            def body(self):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def answer(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def gone(self):
                """After stop() connections that were kept alive get no answer, as from a dead process."""
                self.close_connection = outer.server is not self.server
                return self.close_connection

            def do_POST(self):
                body = json.loads(self.body())
                if self.gone():
                    return None
                if outer.refuse:
                    return self.answer(outer.refuse[0], {"code": outer.refuse[1], "detail": "as the test says"})
                what = self.path.removeprefix("/v1/node/")
                status, reply = getattr(outer, "on_" + what)(body)
                if self.gone():
                    return None
                return self.answer(status, reply)

            def do_PUT(self):
                data = self.body()
                if self.gone():
                    return None
                url = urllib.parse.urlsplit(self.path)
                name = url.path.removeprefix("/v1/node/files/")
                offset = int(urllib.parse.parse_qs(url.query)["offset"][0])
                with outer.lock:
                    have = outer.files.setdefault(name, b"")
                    if offset != len(have):
                        return self.answer(409, {"size": len(have)})
                    outer.files[name] = have + data
                    return self.answer(200, {"size": len(outer.files[name])})

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        server, self.server = self.server, None
        server.shutdown()
        server.server_close()

    def restart(self):
        """As after a crash: another epoch, nothing known of agents, commands numbered anew."""
        self.epoch += 1
        self.agent, self.seq, self.commands = None, 0, []
        self.start()

    def head(self):
        return {"cluster": self.cluster, "epoch": self.epoch}

    def on_register(self, q):
        with self.lock:
            self.registrations.append(q)
            self.agent = q["agent_id"]
            self.lock.notify_all()
            return 200, {**self.head(), "heartbeat_s": 1, "lease_s": self.lease_s, "store": "", "kill": self.kill}

    def on_poll(self, q):
        with self.lock:
            if q["agent_id"] != self.agent:
                return 409, {"code": "not_registered", "detail": "register first"}
            if q["epoch"] > self.epoch:
                return 409, {"code": "stale_epoch", "detail": "another coordinator came after this one"}
            self.polls.append(time.monotonic())
            self.commands = [c for c in self.commands if c["seq"] > q["ack"]]
            self.lock.wait_for(lambda: self.commands, timeout=min(q["wait_s"], 1))
            return 200, {**self.head(), "commands": self.commands}

    def on_reports(self, q):
        with self.lock:
            if q["agent_id"] != self.agent:
                return 409, {"code": "not_registered", "detail": "register first"}
            self.reports += q["reports"]
            self.lock.notify_all()
            return 200, {**self.head(), "done": [r["id"] for r in q["reports"]]}

    def send(self, type, **more):
        with self.lock:
            self.seq += 1
            self.commands.append({"seq": self.seq, "type": type, **more})
            self.lock.notify_all()

    def got(self, type, **match):
        with self.lock:
            return [r for r in self.reports if r["type"] == type and all(r.get(k) == v for k, v in match.items())]

    def expect(self, type, timeout=20, **match):
        """The first report of that type, waiting for it."""
        def there():
            bad = self.got("prepare_failed") if type != "prepare_failed" else None
            assert not bad, bad
            return self.got(type, **match)
        return wait_until(there, timeout, f"report {type} {match}; got {[r['type'] for r in self.reports]}")[0]

    def prepare(self, job, attempt=1, gang=(("n1", "127.0.0.1", 2),), role="head", spec=None, **more):
        gang = [{"node": n, "address": a, "slots": s} for n, a, s in gang]
        self.send("prepare", **{"job": job, "attempt": attempt, "role": role, "spec": spec or {"kind": "check"}, "inputs": {},
                                "gang": gang, "rank0": 0, "resume": None, "upload": None, "lease_s": self.lease_s, "wall_s": 0,
                                "ports": "", **more})
