"""longhaul-node against a scripted coordinator, with real shims and real mpirun; ranks are shell scripts."""
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest
from longhaul import BIN, Node, children_of, wait_until
from scripted import Scripted

pytestmark = pytest.mark.full

OK = '''case "$*" in *--plan*) echo '{"ok": true, "bytes_total": 7}'; exit 0;; *--prepare*) exit 0;; esac
rank=$OMPI_COMM_WORLD_RANK
say() { echo "$1" >>out/events/rank-$rank.jsonl; }
say '{"type": "start", "rank": '$rank'}'
echo "log of $rank"
'''


def runs(pid):
    """Orphans that were killed wait for init to collect them: they run no more."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Bench:
    """A node with one scripted coordinator, whose ranks run `script`."""

    def __init__(self, tmp_path, script="exit 0", *args, name="n1"):
        self.tmp = tmp_path
        self.worker = tmp_path / "worker.sh"
        self.worker.write_text("#!/bin/sh\n" + OK + script)
        self.worker.chmod(0o755)
        self.c = Scripted()
        self.state = tmp_path / "node"
        self.args = ["--worker", self.worker, *args]
        self.node = Node(self.c.url, name, self.state, *self.args, slots=2).start()
        wait_until(lambda: self.c.registrations, 10, "the node registers")

    def dir(self, job, attempt=1):
        return self.state / "attempts" / job / str(attempt)

    def shim_pid(self, job, attempt=1):
        return json.loads((self.dir(job, attempt) / "shim.json").read_text())["pid"]

    def run_to(self, job, what, **more):
        attempt = more.get("attempt", 1)
        self.c.prepare(job, **more)
        self.c.expect("prepared", job=job, attempt=attempt)
        self.c.send("launch", job=job, attempt=attempt)
        return self.c.expect(what, job=job, attempt=attempt)

    def close(self):
        for job in (self.state / "attempts").glob("*/*") if (self.state / "attempts").exists() else []:
            try:
                pid = json.loads((job / "shim.json").read_text())["pid"]
                for p in [*children_of(pid), pid] if not (job / "cleaned.json").exists() else []:
                    os.kill(p, signal.SIGKILL)
            except OSError:
                pass
        self.node.stop()
        if self.c.server:
            self.c.stop()


@pytest.fixture
def bench(tmp_path):
    made = []

    def make(*a, **k):
        made.append(Bench(tmp_path, *a, **k))
        return made[-1]

    yield make
    for b in made:
        b.close()


def test_a_node_registers_with_what_it_is(bench):  # NODE-1, 3, 4
    b = bench()
    r = b.c.registrations[0]
    assert (r["protocol"], r["name"], r["slots"], r["device"], r["address"], r["attempts"]) == (1, "n1", 2, "cpu", "127.0.0.1", [])
    assert r["cores"] == len(os.sched_getaffinity(0)) and r["memory_bytes"] > 1 << 28
    assert r["boot_id"] == pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    wait_until((b.state / "fence.json").exists, 10, "the answer is obeyed")
    assert json.loads((b.state / "fence.json").read_text()) == {"cluster": "c1", "epoch": 1}


def test_an_attempt_runs_and_everything_it_wrote_arrives_before_the_end_is_told(bench):  # NODE-6, 7, 9, 10, 13, 17, 18
    b = bench('say \'{"type": "done", "rank": \'$rank\', "exit": 0, "result": {"x": 1}}\'; exit 0')
    end = b.run_to("j1", "exited")
    assert (end["outcome"], end["class"], end["exit"], end["result"]) == ("ok", "", 0, {"x": 1})
    assert [(r["rank"], r["node"], r["exit"]) for r in end["ranks"]] == [(0, "n1", 0), (1, "n1", 0)]
    assert b.c.files["j1/1/0.log"] == b"log of 0\n" and b.c.files["j1/1/1.log"] == b"log of 1\n"
    assert b'"done"' in b.c.files["j1/1/events.jsonl"]
    b.c.expect("cleaned", job="j1")
    assert [r["type"] for r in b.c.reports].index("prepared") < [r["type"] for r in b.c.reports].index("launched")
    b.c.send("forget", job="j1", attempt=1)
    wait_until(lambda: not b.dir("j1").exists(), 10, "the attempt is forgotten")


def test_running_is_told_when_every_rank_has_started(bench):  # NODE-10, 15
    b = bench("sleep 3")
    b.run_to("j1", "running")
    assert not b.c.got("exited")


def test_a_preflight_tells_the_plan_or_the_problem(bench):  # NODE-8, 14
    b = bench()
    b.c.send("preflight", job="j1", spec={"kind": "check"}, inputs={})
    assert b.c.expect("preflight", job="j1")["plan"] == {"bytes_total": 7}
    b.c.send("preflight", job="j2", spec={"kind": "train", "model": {"base": "file:///nowhere/model"}}, inputs={})
    r = b.c.expect("preflight", job="j2")
    assert not r["ok"] and r["problem"]["pointer"] == "/model/base" and "/nowhere/model" in r["problem"]["detail"]
    b.c.send("preflight", job="j3", spec={"kind": "train", "model": {"base": "job:j0/export"}}, inputs={})
    assert "was not resolved" in b.c.expect("preflight", job="j3")["problem"]["detail"]
    assert not list((b.state / "preflight").glob("*"))


def test_a_preflight_that_the_worker_refuses_carries_its_words(bench):
    b = bench()
    b.worker.write_text('#!/bin/sh\necho \'{"ok": false, "code": "bad_job", "pointer": "/context/length", "detail": "too long"}\'')
    b.c.send("preflight", job="j1", spec={"kind": "check"}, inputs={})
    r = b.c.expect("preflight", job="j1")
    assert not r["ok"] and r["problem"] == {"code": "bad_job", "pointer": "/context/length", "detail": "too long"}
    b.worker.write_text("#!/bin/sh\necho cannot go on >&2; exit 70")
    b.c.send("preflight", job="j2", spec={"kind": "check"}, inputs={})
    assert "cannot go on" in b.c.expect("preflight", job="j2")["problem"]["detail"]


def test_inputs_that_are_missing_refuse_the_attempt_and_leave_nothing(bench):  # NODE-9, 15
    b = bench()
    b.c.prepare("j1", spec={"kind": "train", "data": {"train": ["file:///nowhere/*.txt"]}})
    r = b.c.expect("prepare_failed", job="j1")
    assert (r["class"], r["problem"]["pointer"]) == ("app", "/data/train/0")
    wait_until(lambda: b.c.got("cleaned", job="j1"), 10, "cleaned")
    b.c.send("forget", job="j1", attempt=1)
    wait_until(lambda: not b.dir("j1").exists(), 10, "the attempt is forgotten")


def test_a_stop_reaches_the_ranks(bench):  # NODE-12
    b = bench('trap "exit 85" TERM; while :; do sleep 0.1; done')
    b.run_to("j1", "running")
    b.c.send("stop", job="j1", attempt=1, reason="cancel", grace_s=5)
    end = b.c.expect("exited", job="j1")
    assert (end["outcome"], end["exit"], end["reason"]) == ("stopped", 85, "cancel")


def test_a_stop_of_a_prepared_attempt_and_of_one_never_seen(bench):  # NODE-12, 18
    b = bench()
    b.c.prepare("j1")
    b.c.expect("prepared", job="j1")
    b.c.send("stop", job="j1", attempt=1, reason="cancel", grace_s=0)
    assert b.c.expect("exited", job="j1")["outcome"] == "stopped"
    b.c.expect("cleaned", job="j1")
    b.c.send("stop", job="ghost", attempt=4, reason="cancel", grace_s=0)
    b.c.expect("cleaned", job="ghost", attempt=4)


def test_a_killed_daemon_leaves_the_ranks_alone_and_its_successor_goes_on(bench):  # SHIM-1, NODE-4
    b = bench('i=0; while [ $i -lt 30 ]; do echo "line $i"; sleep 0.1; i=$((i+1)); done; exit 0')
    b.run_to("j1", "running")
    pid = b.shim_pid("j1")
    b.node.kill()
    time.sleep(1.5)
    os.kill(pid, 0)
    b.node = Node(b.c.url, "n1", b.state, *b.args, slots=2).start()
    wait_until(lambda: len(b.c.registrations) == 2, 10, "the second daemon registers")
    assert b.c.registrations[1]["attempts"] == [{"job": "j1", "attempt": 1, "role": "head", "state": "live"}]
    assert b.c.expect("exited", job="j1")["outcome"] == "ok"
    assert b.shim_pid("j1") == pid
    assert b.c.files["j1/1/0.log"] == b"log of 0\n" + b"".join(b"line %d\n" % i for i in range(30))


def test_an_attempt_that_ended_while_the_daemon_was_away_is_told(bench):  # NODE-6
    b = bench("sleep 1; exit 3")
    b.run_to("j1", "running")
    b.node.kill()
    wait_until(lambda: (b.dir("j1") / "cleaned.json").exists(), 15, "the shim ends by itself")
    b.node = Node(b.c.url, "n1", b.state, *b.args, slots=2).start()
    end = b.c.expect("exited", job="j1")
    assert (end["outcome"], end["class"], end["exit"]) == ("failed", "app", 3)


def test_a_killed_shim_is_an_infrastructure_failure_without_leftovers(bench):  # SHIM-7
    b = bench("exec sleep 51.25")
    b.run_to("j1", "running")
    pid = b.shim_pid("j1")
    below = children_of(pid)
    os.kill(pid, signal.SIGKILL)
    end = b.c.expect("exited", job="j1")
    assert (end["outcome"], end["class"], end["error"]["code"]) == ("failed", "infra", "shim_lost")
    b.c.expect("cleaned", job="j1")
    assert not pathlib.Path("/dev/shm/longhaul-j1-1").exists()
    assert len(below) >= 5 and not [p for p in below if runs(p)]


def test_a_killed_daemon_and_a_killed_shim_are_cleaned_up_by_the_next_daemon(bench):
    b = bench('(setsid sleep 52.25 &); exec sleep 52.25')
    b.run_to("j1", "running")
    pid = b.shim_pid("j1")
    b.node.kill()
    os.kill(pid, signal.SIGKILL)
    b.node = Node(b.c.url, "n1", b.state, *b.args, slots=2).start()
    assert b.c.expect("exited", job="j1")["error"]["code"] == "shim_lost"
    b.c.expect("cleaned", job="j1")
    assert b"52.25" not in subprocess.run(["ps", "axww", "-o", "args"], capture_output=True).stdout


def test_a_coordinator_that_restarts_is_told_everything_again(bench):  # NODE-1, 3, 5, 6
    b = bench("sleep 100")
    b.run_to("j1", "running")
    b.c.stop()
    time.sleep(1)
    b.c.reports.clear()
    b.c.restart()
    wait_until(lambda: len(b.c.registrations) == 2, 15, "the node registers again")
    assert b.c.registrations[1]["epoch"] == 1 and b.c.registrations[1]["attempts"][0]["state"] == "live"
    b.c.expect("running", job="j1")
    b.c.send("stop", job="j1", attempt=1, reason="cancel", grace_s=0)
    b.c.expect("cleaned", job="j1")
    assert json.loads((b.state / "fence.json").read_text())["epoch"] == 2


def test_an_older_epoch_and_another_cluster_are_not_obeyed(bench):  # NODE-1
    b = bench()
    b.c.stop()
    b.c.epoch = 0
    b.c.restart()  # epoch 1 again, but
    (b.state / "fence.json").write_text('{"cluster": "c1", "epoch": 5}')
    b.node.stop()
    b.c.registrations.clear()
    b.node = Node(b.c.url, "n1", b.state, *b.args, slots=2).start()
    wait_until(lambda: b.c.registrations, 10, "it asks")
    b.c.prepare("j1")
    # The node asks again after a pause that grows with each refusal.
    wait_until(lambda: "older than 5" in b.node.log.read_text(), 20, "the older epoch is refused")
    b.c.epoch, b.c.cluster = 6, "c2"
    wait_until(lambda: "of cluster c2" in b.node.log.read_text(), 20, "the other cluster is refused")
    time.sleep(0.5)
    assert not b.dir("j1").exists()


def test_unwanted_attempts_are_killed_at_registration(bench):  # NODE-4
    b = bench("sleep 100")
    b.run_to("j1", "running")
    b.c.kill = [{"job": "j1", "attempt": 1}]
    b.c.stop()
    b.c.restart()
    wait_until(lambda: not b.dir("j1").exists(), 20, "the attempt is gone")


def test_a_higher_attempt_ends_the_one_that_is_held_and_a_lower_one_is_refused(bench):  # NODE-2
    b = bench("sleep 100")
    b.run_to("j1", "running", attempt=2)
    b.c.prepare("j1", attempt=1)
    b.c.prepare("j1", attempt=3)
    b.c.expect("exited", job="j1", attempt=2)
    b.c.expect("prepared", job="j1", attempt=3)
    assert not b.dir("j1", 1).exists()


def test_commands_may_be_repeated(bench):  # NODE-5
    b = bench("sleep 1; exit 0")
    b.c.prepare("j1")
    b.c.prepare("j1")
    b.c.expect("prepared", job="j1")
    b.c.send("launch", job="j1", attempt=1)
    b.c.send("launch", job="j1", attempt=1)
    assert b.c.expect("exited", job="j1")["outcome"] == "ok"
    assert b.c.files["j1/1/0.log"] == b"log of 0\n"


def test_processes_that_fork_faster_than_they_can_be_found_are_killed_with_their_cgroup(bench):  # SHIM-4
    b = bench("""trap "" TERM; (exec setsid python3 -c "
import os, time
while True:
    if os.fork(): os._exit(0)
    time.sleep(0.001)
" longhaul-hopper) & exit 0""")
    b.c.prepare("j1")
    b.c.expect("prepared", job="j1")
    cgroup = json.loads((b.dir("j1") / "attempt.json").read_text())["local"].get("cgroup")
    if not cgroup:
        pytest.skip("cgroup v2 cannot be written to here")
    b.c.send("launch", job="j1", attempt=1)
    b.c.expect("cleaned", job="j1", timeout=30)
    assert b"longhaul-hopper" not in subprocess.run(["ps", "axww", "-o", "args"], capture_output=True).stdout
    wait_until(lambda: not pathlib.Path(cgroup).exists(), 10, "the cgroup is removed")


def test_secrets_of_the_daemon_do_not_reach_ranks(bench, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    b = bench("env; exit 0")
    b.run_to("j1", "exited")
    assert b"LONGHAUL_ATTEMPT_DIR" in b.c.files["j1/1/0.log"] and b"very-secret" not in b.c.files["j1/1/0.log"]


CHECKPOINTS = r"""
checkpoint() { # step: a directory with a manifest, as the worker writes it
  python3 - "$1" "$PWD/out/checkpoints" <<'END'
import hashlib, json, os, sys
step, root = int(sys.argv[1]), sys.argv[2]
tmp = f"{root}/step-{step:08}.tmp"
os.makedirs(tmp)
size = int(os.environ.get("TEST_BYTES", "1000"))
files = []
for name in ("adapter_model.safetensors", "state.json"):
    data = (f"{name} of {step} ".encode() * (size // 10 + 1))[:size]
    open(f"{tmp}/{name}", "wb").write(data)
    files.append({"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
manifest = json.dumps({"version": 1, "kind": "checkpoint", "about": {}, "bytes": 2 * size, "files": files})
open(f"{tmp}/manifest.json", "w").write(manifest)
os.rename(tmp, tmp[:-4])
event = {"type": "checkpoint", "rank": 0, "step": step, "path": tmp[:-4], "bytes": 2 * size,
         "manifest_sha256": hashlib.sha256(manifest.encode()).hexdigest()}
open("out/events/rank-0.jsonl", "a").write(json.dumps(event) + "\n")
END
}
"""


def verified(path):
    """The manifest of a directory whose files are all what it says."""
    manifest = json.loads((path / "manifest.json").read_text())
    for f in manifest["files"]:
        data = (path / f["name"]).read_bytes()
        assert len(data) == f["bytes"] and hashlib.sha256(data).hexdigest() == f["sha256"], f
    return manifest


def test_checkpoints_are_uploaded_while_ranks_run_even_when_the_worker_removes_its_own(bench):  # NODE-16, CKPT-12, 15
    b = bench(CHECKPOINTS + '[ $rank = 0 ] || { sleep 2; exit 0; }; checkpoint 1; sleep 1; checkpoint 2; rm -r out/checkpoints/*1; exit 0')
    store = b.tmp / "store"
    end = b.run_to("j1", "exited", upload=f"file://{store}/")
    assert end["outcome"] == "ok"
    for step in (1, 2):
        r = b.c.got("upload", step=step, state="done")[0]
        path = store / "j1" / "attempt-1" / f"step-{step:08}"
        assert r["uri"] == f"file://{path}"
        verified(path)
        digest = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
        assert digest == r["manifest_sha256"] == b.c.got("checkpoint", step=step)[0]["manifest_sha256"]
        assert b.c.got("upload", step=step, state="uploading")
    assert not list(store.rglob("*.tmp")) and not list(store.rglob("*.new"))
    types = [(r["type"], r.get("state")) for r in b.c.reports]
    assert types.index(("exited", None)) > max(i for i, t in enumerate(types) if t == ("upload", "done"))
    b.c.send("forget", job="j1", attempt=1)
    wait_until(lambda: not b.dir("j1").exists(), 10, "the attempt is forgotten")
    assert not (b.state / "kept").exists()


def test_an_upload_that_fails_for_good_is_told_and_the_checkpoint_is_kept(bench):  # CKPT-16, NODE-13
    b = bench(CHECKPOINTS + '[ $rank = 0 ] && checkpoint 1; sleep 1; exit 0')
    blocker = b.tmp / "store"
    blocker.write_text("not a directory")
    end = b.run_to("j1", "exited", upload=f"file://{blocker}")
    assert end["outcome"] == "ok"
    r = b.c.got("upload", step=1, state="failed")[0]
    assert str(blocker) in r["error"]
    b.c.send("forget", job="j1", attempt=1)
    wait_until(lambda: not b.dir("j1").exists(), 10, "the attempt is forgotten")
    verified(b.state / "kept" / "j1" / "attempt-1" / "step-00000001")


def test_a_checkpoint_of_another_attempt_at_the_same_place_is_not_overwritten(bench):  # CKPT-15
    b = bench(CHECKPOINTS + '[ $rank = 0 ] && checkpoint 1; sleep 1; exit 0')
    path = b.tmp / "store" / "j1" / "attempt-1" / "step-00000001"
    path.mkdir(parents=True)
    (path / "manifest.json").write_text("somebody else's")
    b.run_to("j1", "exited", upload=f"file://{b.tmp}/store")
    assert "written by another attempt" in b.c.got("upload", step=1, state="failed")[0]["error"]
    assert (path / "manifest.json").read_text() == "somebody else's"


def test_an_upload_goes_on_after_the_daemon_was_killed_in_the_middle(bench):
    b = bench(CHECKPOINTS + '[ $rank = 0 ] && checkpoint 1; sleep 3; exit 0')
    b.node.stop()
    b.node = Node(b.c.url, "n1", b.state, *b.args, slots=2, env={"LONGHAUL_FAULT": "node.upload.file:1:kill"}).start()
    wait_until(lambda: len(b.c.registrations) == 2, 10, "the second daemon registers")
    b.c.prepare("j1", upload=f"file://{b.tmp}/store")
    b.c.expect("prepared", job="j1")
    b.c.send("launch", job="j1", attempt=1)
    b.node.process.wait(20)
    path = b.tmp / "store" / "j1" / "attempt-1" / "step-00000001"
    assert (path / "adapter_model.safetensors").exists() and not (path / "manifest.json").exists()
    b.node = Node(b.c.url, "n1", b.state, *b.args, slots=2).start()
    b.c.expect("upload", job="j1", state="done")
    verified(path)
    assert b.c.expect("exited", job="j1")["outcome"] == "ok"


def test_shards_are_reported_and_uploaded_at_the_end(bench):  # NODE-16, CKPT-6
    b = bench(CHECKPOINTS + '[ $rank = 0 ] && { checkpoint 7; mv out/checkpoints/step-00000007 out/shards; }; sleep 0.5; exit 0')
    b.run_to("j1", "exited", upload=f"file://{b.tmp}/store")
    assert b.c.got("upload", output="shards", state="done")
    verified(b.tmp / "store" / "j1" / "attempt-1" / "shards")


def test_an_attempt_resumes_from_a_checkpoint_of_the_store_after_verifying_it(bench):  # NODE-9, CKPT-4, 5
    b = bench(CHECKPOINTS + 'if [ -e resume ]; then echo "$*"; cat resume/state.json; exit 0; fi; [ $rank = 0 ] && checkpoint 1; sleep 1; exit 0')
    b.run_to("j1", "exited", upload=f"file://{b.tmp}/store")
    r = b.c.got("upload", step=1, state="done")[0]
    resume = {"uri": r["uri"], "manifest_sha256": r["manifest_sha256"], "step": 1}
    b.run_to("j1", "exited", attempt=2, resume=resume)
    log = b.c.files["j1/2/0.log"]
    assert b"--resume resume" in log and b"state.json of 1" in log
    b.c.prepare("j2", resume={**resume, "manifest_sha256": "0" * 64})
    assert "is not what it was" in b.c.expect("prepare_failed", job="j2")["problem"]["detail"]
    (b.tmp / "store" / "j1" / "attempt-1" / "step-00000001" / "state.json").write_text("x" * 1000)
    for mark in (b.state / "cache" / "verified").iterdir():
        mark.unlink()
    b.c.prepare("j3", resume=resume)
    assert "state.json" in b.c.expect("prepare_failed", job="j3")["problem"]["detail"]


@pytest.mark.parametrize("args, words", [
    (["--coordinator", "http://127.0.0.1:1", "--state", "/tmp/x", "--slots", "0"], "--slots '0' must be"),
    (["--coordinator", "ftp://x", "--state", "/tmp/x", "--slots", "1"], "must be http://HOST:PORT"),
    (["--coordinator", "http://10.1.2.3:7433", "--state", "/tmp/x", "--slots", "1"], "--insecure"),
    (["--state", "/tmp/x", "--slots", "1"], "--coordinator URL is missing"),
    (["--coordinator", "http://127.0.0.1:1", "--slots", "1"], "--state DIR is missing"),
    (["--coordinator", "http://127.0.0.1:1", "--state", "/tmp/x", "--slots", "1", "--name", "a b"], "--name 'a b'"),
    (["--coordinator", "http://127.0.0.1:1", "--state", "/tmp/x", "--slots", "1", "--token-file", "/nowhere"], "/nowhere"),
    (["--coordinator", "http://127.0.0.1:1", "--state", "/tmp/x", "--slots", "1", "--frobnicate"], "'--frobnicate'"),
])
def test_bad_options_are_named_with_the_way_out(args, words):
    r = subprocess.run([str(BIN / "longhaul-node"), *args], capture_output=True, text=True, timeout=10)
    assert r.returncode == 64 and words in r.stderr


def test_two_daemons_cannot_share_a_state_directory(bench):
    b = bench()
    r = subprocess.run(b.node.command, capture_output=True, text=True, timeout=10)
    assert r.returncode == 78 and "another longhaul-node runs" in r.stderr
