"""What longhauld cannot work with: flags, configuration, a port in use, a state directory that is held, read-only or full.

Each start ends with one line that names the flag, key or directory and the way out, and changes nothing. A disk that fills
up while jobs run makes the daemon read-only (507) until there is room; the jobs go on. Network file systems cannot be
mounted here: tests/unit/test_lock.c has them, with what the kernel says replaced.
"""
import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import time

import longhaul
import pytest
from longhaul import check_job, wait_until

pytestmark = pytest.mark.full
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")


def refused(code, *words, args):
    """longhauld ends by itself with this code, and the last line that it wrote holds the words."""
    done = subprocess.run([str(longhaul.BIN / "longhauld"), *[str(a) for a in args]], capture_output=True, text=True, timeout=20)
    assert done.returncode == code, (done.returncode, done.stderr)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("longhauld: ")
    for word in words:
        assert str(word) in last, done.stderr


@contextlib.contextmanager
def tmpfs(path, size, *options):
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def free_bytes(path):
    fs = os.statvfs(path)
    return fs.f_bavail * fs.f_frsize


def fill(path, leave):
    """Leaves so many bytes of the file system; 0: not one."""
    with open(path, "ab", buffering=0) as f:
        with contextlib.suppress(OSError):
            while free_bytes(path.parent) > leave:
                f.write(b"x" * min(65536, free_bytes(path.parent) - leave))
            while leave == 0:
                f.write(b"x")


# ---- flags and configuration --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags, code, words", [
    (["--standalnoe"], 64, ["standalnoe", "--standalone"]),
    (["--state"], 64, ["--state"]),
    (["extra"], 64, ["extra"]),
    ([], 64, ["--state"]),
    (["--listen", "nonsense"], 78, ["nonsense", "HOST:PORT"]),
    (["--listen", "127.0.0.1:70000"], 78, ["127.0.0.1:70000", "HOST:PORT"]),
    (["--listen", "0.0.0.0:0"], 78, ["0.0.0.0:0", "--insecure", "--tls-cert"]),
    (["--listen", "192.0.2.1:0", "--insecure"], 69, ["192.0.2.1:0", "assign"]),
    (["--listen", "unix:relative"], 78, ["unix:relative", "absolute"]),
    (["--slots", "none"], 64, ["slots"]),
    (["--set", "timers.suspect=1"], 64, ["timers.suspect", "suspect_ms"]),
    (["--set", "limits.body_bytes=1"], 64, ["limits.body_bytes"]),
    (["--token-file", "/nowhere/tokens"], 78, ["/nowhere/tokens"]),
    (["--tls-cert", "/nowhere/cert"], 64, ["tls_key"]),
    (["--tls-cert", "/nowhere/cert", "--tls-key", "/nowhere/key"], 78, ["/nowhere/cert"]),
    (["--config", "/nowhere/longhauld.yaml"], 78, ["/nowhere/longhauld.yaml"]),
])
def test_a_bad_flag_is_named_with_the_way_out(tmp_path, flags, code, words):
    state = [] if not flags or "--state" in flags else ["--state", tmp_path / "s"]
    refused(code, *words, args=[*state, *flags])


@pytest.mark.parametrize("text, words", [
    ("listen_adress: x\n", ["listen_adress", "listen"]),
    ("timers: {suspect_ms: soon}\n", ["suspect_ms"]),
    ("timers: {suspect_ms: 1}\n", ["timers.suspect_ms", "10"]),
    ("listen: [\n", ["line: 1"]),
    ("auth: nobody\n", ["auth"]),
])
def test_a_bad_configuration_names_file_and_key(tmp_path, text, words):
    config = tmp_path / "longhauld.yaml"
    config.write_text(text)
    refused(78, config, *words, args=["--config", config, "--state", tmp_path / "s"])
    assert not (tmp_path / "s").exists()


def test_a_port_in_use_is_named_and_changes_nothing(tmp_path):
    with longhaul.Coordinator(tmp_path / "s", standalone=False):
        pass

    def epoch():
        with contextlib.closing(sqlite3.connect(tmp_path / "s" / "longhauld.db")) as db:
            return db.execute("SELECT epoch FROM cluster").fetchone()

    before = epoch()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        refused(69, f"127.0.0.1:{port}", "in use", args=["--standalone", "--state", tmp_path / "s", "--listen", f"127.0.0.1:{port}"])
    assert epoch() == before


# ---- the state directory ------------------------------------------------------------------------------------------------

def test_a_state_directory_that_another_one_holds_is_refused_with_its_pid(tmp_path):
    with longhaul.Coordinator(tmp_path / "state", standalone=False) as c:
        refused(75, c.state, f"process {c.process.pid}", "--state", args=["--state", c.state, "--listen", "127.0.0.1:0"])
        assert c.get("/livez").status == 200
        c.kill()
        c.start()  # the lock ends with its process, however it ended


@pytest.mark.parametrize("make, words", [
    (lambda p: p.write_text("hello"), "not a directory"),
    (lambda p: p.symlink_to("/nowhere/at/all"), "give another --state"),
    (lambda p: (p.mkdir(), (p / "longhauld.db").write_bytes(b"not a database" * 100)), "longhauld.db"),
    (lambda p: (p.mkdir(), (p / "longhauld.db").mkdir()), "longhauld.db"),
    (lambda p: (p.mkdir(), (p / "lock").mkdir()), "give another --state"),
], ids=["a file", "a dangling link", "no database", "a directory for a database", "a directory for a lock"])
def test_a_state_directory_that_is_none_is_refused(tmp_path, make, words):
    state = tmp_path / "state"
    make(state)
    done = subprocess.run([str(longhaul.BIN / "longhauld"), "--state", str(state), "--listen", "127.0.0.1:0"],
                          capture_output=True, text=True, timeout=20)
    assert done.returncode in (73, 78), done.stderr
    assert str(state) in done.stderr and words.lower() in done.stderr.lower(), done.stderr


@root
def test_a_read_only_state_directory_is_refused(tmp_path):
    with tmpfs(tmp_path / "ro", "1m", "ro") as state:
        refused(73, state, "Read-only file system", "--state", args=["--state", state, "--listen", "127.0.0.1:0"])


@root
def test_a_state_directory_without_room_is_refused(tmp_path):
    with tmpfs(tmp_path / "small", "1m") as state:
        refused(73, state, "64 MiB", "limits.reserve_mib", args=["--state", state, "--listen", "127.0.0.1:0"])
        fill(state / "filler", 0)
        refused(73, state, "No space left", "free some space", args=["--state", state, "--listen", "127.0.0.1:0"])


@root
def test_a_disk_that_fills_up_makes_the_daemon_read_only_until_there_is_room(tmp_path):
    with tmpfs(tmp_path / "disk", "32m") as disk, \
            longhaul.Coordinator(disk / "state", "--set", "limits.reserve_mib=8") as c:
        wait_until(lambda: any(n["state"] == "up" for n in c.get("/v1/nodes").json["nodes"]), 20, "the node is up")
        held = c.submit(check_job(0.1, hold=True))
        job = c.submit(check_job(3, slots=2))
        c.wait(job, "running")

        fill(disk / "filler", 2 << 20)  # below the reserve
        refusal = wait_until(lambda: next((r for r in [c.post("/v1/jobs", check_job(0.1))] if r.status != 201), None), 10, "a refusal")
        assert refusal.status == 507 and refusal.json["code"] == "disk_reserve"
        assert refusal.headers["Content-Type"] == "application/problem+json"
        assert str(disk / "state") in refusal.json["detail"] and "free some space" in refusal.json["detail"]
        wait_until(lambda: c.get("/v1/status").json["mode"] == "read_only", 5, "the status says so")
        assert c.get("/livez").status == 200 and c.get(f"/v1/jobs/{job}").status == 200
        assert c.post(f"/v1/jobs/{held}/cancel").status == 200  # what there is can be changed: the reserve is for that

        fill(disk / "filler", 0)  # not one byte
        assert free_bytes(disk) == 0
        time.sleep(1)
        assert c.post("/v1/jobs", check_job(0.1)).status == 507
        assert c.process.poll() is None and c.job(job)["state"] == "running"

        os.truncate(disk / "filler", 0)
        ended = c.wait(job, "succeeded", 30)
        assert ended["attempts"] == 1
        accepted = wait_until(lambda: next((r for r in [c.post("/v1/jobs", check_job(0.1))] if r.status == 201), None), 10, "room again")
        c.wait(accepted.json["id"], "succeeded")
        wait_until(lambda: c.get("/v1/status").json["mode"] == "normal", 5, "the status says so")


@root
def test_a_daemon_killed_on_a_full_disk_starts_again_there_and_takes_its_job_back(tmp_path):
    with tmpfs(tmp_path / "disk", "32m") as disk:
        with longhaul.Coordinator(disk / "state", "--set", "limits.reserve_mib=8") as c:
            wait_until(lambda: any(n["state"] == "up" for n in c.get("/v1/nodes").json["nodes"]), 20, "the node is up")
            job = c.submit(check_job(2))
            c.wait(job, "running")
            fill(disk / "filler", 4 << 20)
            c.process.send_signal(signal.SIGKILL)
            c.process.wait()
            c.start()
            assert c.post("/v1/jobs", check_job(0.1)).status == 507
            assert c.wait(job, "succeeded")["attempts"] == 1
            os.truncate(disk / "filler", 0)
