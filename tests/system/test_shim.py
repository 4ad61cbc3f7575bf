"""longhaul-shim alone, with real mpirun: what it writes for every way in which an attempt can end."""
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import pytest
from longhaul import BIN, children_of, dying_with_us, wait_until

pytestmark = pytest.mark.full


class Shim:
    """One attempt of two ranks, each running `script` in place of longhaul-worker."""

    def __init__(self, path, script, slots=2, env=None, **more):
        self.dir = path
        (path / "out").mkdir(parents=True)
        local = {"node": "n1", "cores": 2, "slots": slots, "grace_ms": 2000, "hang_ms": 600000, **more.pop("local", {})}
        attempt = {"protocol": 1, "job": f"j{os.getpid()}", "attempt": 1, "role": "head", "rank0": 0, "lease_s": 0, "wall_s": 0,
                   "gang": [{"node": "n1", "address": "127.0.0.1", "slots": slots}], "ports": "", **more, "local": local}
        (path / "attempt.json").write_text(json.dumps(attempt))
        (path / "job.json").write_text("{}")
        worker = path / "longhaul-worker"
        worker.write_text("#!/bin/sh\n" + script)
        worker.chmod(0o755)
        self.stderr = open(path / "shim.log", "wb")
        self.process = subprocess.Popen([str(BIN / "longhaul-shim"), str(path)], stdin=subprocess.DEVNULL, stdout=self.stderr,
                                        stderr=self.stderr, env={**os.environ, **(env or {})}, start_new_session=True, preexec_fn=dying_with_us())
        wait_until(lambda: (path / "shim.json").exists(), 10, "the shim is there")

    def ask(self, op, **more):
        with socket.socket(socket.AF_UNIX) as s:
            here = os.open(self.dir, os.O_PATH)
            s.connect(f"/proc/self/fd/{here}/control.sock")
            os.close(here)
            s.sendall((json.dumps({"v": 1, "op": op, **more}) + "\n").encode())
            return json.loads(s.makefile().readline())

    def launch(self):
        reply = self.ask("launch")
        assert reply["ok"], reply
        wait_until(lambda: self.ask("status")["started"] == 2, 15, "both ranks are there")
        return self

    def read(self, name):
        return json.loads((self.dir / name).read_text())

    def end(self, timeout=20):
        """Waits for the shim's own end; returns exit.json. No process may be left then."""
        self.process.wait(timeout)
        assert self.read("cleaned.json")["job"].startswith("j")
        assert not (self.dir / "tmp").exists()
        assert not list(pathlib.Path("/dev/shm").glob(f"longhaul-{self.read('exit.json')['job']}-*"))
        return self.read("exit.json")

    def log(self, rank):
        return (self.dir / "logs" / f"rank-{rank}.log").read_text(errors="replace")


@pytest.fixture
def shim(tmp_path):
    started = []

    def start(script, **more):
        started.append(Shim(tmp_path / "attempt", script, **more))
        return started[-1]

    yield start
    for s in started:
        for pid in [s.process.pid, *children_of(s.process.pid)] if s.process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        s.process.wait()
        shutil.rmtree(f"/dev/shm/longhaul-j{os.getpid()}-1", ignore_errors=True)


def alive(marker):
    """Processes with the marker on their command line."""
    found = []
    for p in pathlib.Path("/proc").iterdir():
        try:
            if p.name.isdigit() and marker in (p / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(p.name))
        except OSError:
            pass
    return found


def test_an_attempt_that_ends_well_is_recorded_with_every_rank(shim):  # SHIM-1, 3
    s = shim('echo "rank $OMPI_COMM_WORLD_RANK: $*"; exit 0')
    assert s.ask("status")["state"] == "prepared"
    assert s.ask("launch")["ok"]
    end = s.end()
    assert (end["outcome"], end["class"], end["error"]) == ("ok", "", None)
    assert [(r["rank"], r["exit"]) for r in end["ranks"]] == [(0, 0), (1, 0)]
    assert s.log(1) == "rank 1: job.json --out out\n"
    start = s.read("start.json")
    assert start["pid"] > 0 and start["boot_id"] == pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize("code, cls", [(64, "app"), (65, "app"), (70, "app"), (75, "infra"), (86, "app"), (3, "app")])
def test_the_exit_code_of_the_first_rank_that_fails_decides_the_class(shim, code, cls):  # SHIM-7
    s = shim(f'[ "$OMPI_COMM_WORLD_RANK" = 1 ] && {{ sleep 0.3; exit {code}; }}; sleep 100')
    s.ask("launch")
    end = s.end()
    assert (end["outcome"], end["class"], end["exit"]) == ("failed", cls, code)
    assert "rank 1" in end["error"]["detail"]


def test_a_rank_that_is_killed_is_an_application_failure_with_its_signal(shim):
    s = shim("sleep 100").launch()
    os.kill(s.read("ranks/rank-1.json")["pid"], signal.SIGKILL)
    end = s.end()
    assert (end["outcome"], end["class"], end["signal"]) == ("failed", "app", 9)
    assert end["error"]["detail"].startswith("rank 1 was killed by signal 9")


def test_mpirun_killed_is_an_infrastructure_failure_and_leaves_nothing(shim):  # SHIM-7
    s = shim("exec sleep 41.25").launch()
    os.kill(s.read("start.json")["pid"], signal.SIGKILL)
    end = s.end()
    assert (end["outcome"], end["class"], end["error"]["code"]) == ("failed", "infra", "launcher_lost")
    assert not alive("41.25")


def test_a_killed_shim_takes_its_ranks_with_it(shim):  # SHIM-3
    s = shim("exec sleep 42.25").launch()
    s.process.kill()
    s.process.wait()
    wait_until(lambda: not alive("42.25"), 10, "the ranks are gone")
    assert not (s.dir / "exit.json").exists()


def test_a_stop_lets_ranks_end_by_themselves(shim):  # SHIM-4
    s = shim('trap "exit 85" TERM; while :; do sleep 0.1; done').launch()
    time.sleep(0.3)
    assert s.ask("stop", reason="cancel", grace_ms=10000)["state"] == "stopping"
    end = s.end()
    assert (end["outcome"], end["class"], end["exit"], end["stop"], end["reason"]) == ("stopped", "", 85, "request", "cancel")
    assert (s.dir / "out/stop").exists()


def test_a_stop_before_the_launch_ends_the_attempt(shim):
    s = shim("exit 0")
    s.ask("stop", reason="cancel", grace_ms=0)
    assert s.end()["outcome"] == "stopped"


def test_ranks_that_ignore_a_stop_are_killed_at_its_deadline_with_all_they_started(shim):  # SHIM-4
    s = shim('trap "" TERM; setsid sleep 43.25 & (setsid sh -c "sleep 43.25" &) ; while :; do sleep 0.1; done').launch()
    t0 = time.monotonic()
    s.ask("stop", reason="cancel", grace_ms=1000)
    assert s.end()["outcome"] == "stopped"
    assert 0.9 < time.monotonic() - t0 < 8
    assert not alive("43.25")


def test_the_wall_limit_is_the_shims_own(shim):  # SHIM-5
    s = shim('trap "exit 85" TERM; while :; do sleep 0.1; done', wall_s=1)
    s.ask("launch")
    end = s.end()
    assert (end["outcome"], end["stop"], end["error"]["code"]) == ("timed_out", "wall", "wall_limit")


def test_without_a_renewed_lease_the_attempt_stops_by_itself(shim):  # SHIM-2, 5
    s = shim('trap "exit 85" TERM; while :; do sleep 0.1; done', lease_s=2).launch()
    for _ in range(4):
        time.sleep(0.8)
        assert s.ask("lease", ms=2000)["state"] == "running"
    end = s.end()
    assert (end["outcome"], end["class"], end["stop"]) == ("stopped", "infra", "lease")


def test_ranks_without_a_sign_of_life_hang(shim):  # SHIM-6, EVENT-5
    s = shim("sleep 100", local={"hang_ms": 1500}).launch()
    end = s.end(30)
    assert (end["outcome"], end["class"]) == ("failed", "hang")


def test_beats_keep_an_attempt_from_being_taken_for_hung(shim):  # SHIM-6
    s = shim('i=0; while [ $i -lt 25 ]; do touch out/events/rank-$OMPI_COMM_WORLD_RANK.beat; sleep 0.1; i=$((i+1)); done',
             local={"hang_ms": 1200})
    s.ask("launch")
    assert s.end()["outcome"] == "ok"


def test_a_flood_of_output_is_cut_and_says_so_and_keeps_its_end(shim):  # SHIM-3
    s = shim('yes "a line of a flood" | head -c 30000000; echo the-last-words', local={"log_max_bytes": 1 << 20})
    s.ask("launch")
    assert s.end(60)["outcome"] == "ok"
    log = s.log(0)
    assert len(log) < (1 << 20) + 20000
    assert "the log is full" in log and "bytes of output were dropped" in log
    assert log.endswith("the-last-words\n")


def test_a_missing_mpirun_is_a_launch_failure_that_names_it(shim):
    s = shim("exit 0", local={"mpirun": "/nowhere/mpirun"})
    assert "/nowhere/mpirun" in s.ask("launch")["error"]
    end = s.end()
    assert (end["outcome"], end["class"]) == ("failed", "launch")
    assert "/nowhere/mpirun" in end["error"]["detail"]


def test_the_journal_tells_the_result_and_the_error(shim):  # EVENT-15, 16, 17
    s = shim('''f=out/events/rank-$OMPI_COMM_WORLD_RANK.jsonl
echo '{"type": "start", "rank": 0}' >>$f
echo '{"type": "error", "code": "bad_input", "pointer": "/data", "text": "no such file", "rank": 1, "exit": 65}' >>$f
echo '{"type": "done", "outcome": "failed", "exit": 65, "result": {"loss": 2.5}}' >>$f
exit 65''')
    s.ask("launch")
    end = s.end()
    assert (end["class"], end["exit"]) == ("app", 65)
    assert end["error"] == {"code": "bad_input", "pointer": "/data", "detail": "no such file", "rank": 1, "exit": 65}
    assert end["result"] == {"loss": 2.5}


def test_a_deep_state_directory_is_no_obstacle(tmp_path):
    """Sockets have short paths and mpirun makes many files below its own directory."""
    deep = tmp_path / ("d" * 100) / ("e" * 100) / "a directory with blanks"
    deep.mkdir(parents=True)
    s = Shim(deep / "attempt", "exit 0")
    assert s.ask("launch")["ok"]
    assert s.end()["outcome"] == "ok"


def test_bad_requests_are_refused_with_a_reason(shim):  # SHIM-2
    s = shim("exit 0")
    assert "version 1" in s.ask("status", v=2)["error"]
    assert "'op' must be" in s.ask("dance")["error"]
    assert "member" in s.ask("orted", command="true")["error"] or "head" in s.ask("orted", command="true")["error"]
    assert "not running" in s.ask("checkpoint")["error"]
    second = subprocess.run([str(BIN / "longhaul-shim"), str(s.dir)], capture_output=True, text=True, timeout=10)
    assert second.returncode == 1 and "another shim holds" in second.stderr


@pytest.mark.skipif(b"__asan_init" in (BIN / "longhaul-shim").read_bytes() if (BIN / "longhaul-shim").exists() else False,
                    reason="a build with AddressSanitizer is not small")
def test_the_shim_is_small(shim):
    s = shim("sleep 100").launch()
    status = pathlib.Path(f"/proc/{s.process.pid}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) <= 3 * 1024
