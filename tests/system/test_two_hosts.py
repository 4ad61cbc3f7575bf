"""Two machines and a coordinator, as network namespaces with their own host names, over a bridge."""
import array
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import time

import longhaul
import pytest
from longhaul import check_job, wait_until

pytestmark = [pytest.mark.full,
              pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2")]


CASE = longhaul.ROOT / "tests" / "golden" / "cases" / "s2-packed-gqa-tied"


def run(*words):
    subprocess.run(words, check=True, capture_output=True)


def netns_pids(name):
    done = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split()]


def remove_netns(name):
    """Everything that still runs in a namespace, then the namespace."""
    for pid in netns_pids(name):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    shutil.rmtree(pathlib.Path("/etc/netns") / name, ignore_errors=True)


def remove_stale():
    """Namespaces of test runs that were killed: the process id in their name is nobody's."""
    for entry in pathlib.Path("/etc/netns").glob("lhost*-*"):
        owner = re.fullmatch(r"lhost(\d+)-\d+", entry.name)
        if owner and not pathlib.Path("/proc", owner[1]).exists():
            remove_netns(entry.name)


class Hosts:
    """Namespaces NAME-0, NAME-1, ... at 10.77.0.1, 10.77.0.2, ...; the first holds the bridge."""

    def __init__(self, n):
        self.names = [f"lhost{os.getpid()}-{i}" for i in range(n)]
        self.addresses = [f"10.77.0.{i + 1}" for i in range(n)]

    def prefix(self, i):
        """Command prefix that runs a program on host i, under the host's own name."""
        name = self.names[i]
        return ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", f"hostname {name}; exec \"$@\"", "sh"]

    def __enter__(self):
        remove_stale()
        try:
            self.make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def make(self):
        lines = "127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for a, n in zip(self.addresses, self.names))
        for name in self.names:
            etc = pathlib.Path("/etc/netns") / name
            etc.mkdir(parents=True, exist_ok=True)
            (etc / "hosts").write_text(lines)
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        hub = self.names[0]
        run("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", hub, "addr", "add", f"{self.addresses[0]}/24", "dev", "br0")
        run("ip", "-n", hub, "link", "set", "br0", "up")
        for i, name in list(enumerate(self.names))[1:]:
            run("ip", "-n", hub, "link", "add", f"v{i}", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", hub, "link", "set", f"v{i}", "master", "br0", "up")
            run("ip", "-n", name, "addr", "add", f"{self.addresses[i]}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")

    def pids(self, i, program=None):
        """Processes of host i, those of one program or all."""
        found = []
        for pid in netns_pids(self.names[i]):
            try:
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if program is None or os.path.basename(words[0].decode()) == program:
                found.append(pid)
        return found

    def __exit__(self, *error):
        for name in self.names:
            remove_netns(name)


class Cluster:
    """A coordinator on host 0, one node of one slot on each of the others; requests are made from host 0."""

    def __init__(self, hosts, tmp_path, *settings):
        self.hosts, self.tmp = hosts, tmp_path
        self.token = tmp_path / "token"
        self.token.write_text("a-token-of-this-test-run-0123456789\n")
        self.token.chmod(0o600)
        digest = hashlib.sha256(self.token.read_text().strip().encode()).hexdigest()
        tokens = tmp_path / "tokens"
        tokens.write_text(f"operator test {digest}\n")
        self.coordinator = longhaul.Coordinator(
            tmp_path / "state", "--listen", f"{hosts.addresses[0]}:7433", "--insecure", "--token-file", tokens,
            *[word for setting in settings for word in ("--set", setting)], standalone=False, prefix=hosts.prefix(0))
        self.nodes = []

    def __enter__(self):
        self.coordinator.start()
        for i in range(1, len(self.hosts.names)):
            self.nodes.append(longhaul.Node(
                self.coordinator.url, f"node{i}", self.tmp / f"node{i}", "--token-file", self.token, "--insecure",
                "--address", self.hosts.addresses[i], slots=1, prefix=self.hosts.prefix(i)).start())
        wait_until(lambda: [n["state"] for n in self.ask("/v1/nodes")["nodes"]].count("up") == len(self.nodes), 20,
                   "all nodes are up")
        return self

    def __exit__(self, *error):
        for node in self.nodes:
            node.stop()
        self.coordinator.stop()

    def ask(self, path, method="GET", body=None):
        words = [*self.hosts.prefix(0), "curl", "-sS", "-X", method, "-H", f"Authorization: Bearer {self.token.read_text().strip()}",
                 self.coordinator.url + path]
        if body is not None:
            words += ["-H", "Content-Type: application/json", "--data-binary", json.dumps(body)]
        return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

    def job(self, job_id):
        return self.ask(f"/v1/jobs/{job_id}")

    def submit(self, job):
        reply = self.ask("/v1/jobs", "POST", job)
        assert "id" in reply, reply
        return reply["id"]

    def wait(self, job_id, states, timeout=60):
        def there():
            job = self.job(job_id)
            assert job["state"] in states or job["state"] not in longhaul.FINALS, job
            return job["state"] in states and job

        return wait_until(there, timeout, f"{job_id} is {states}", every=0.2)

    def run(self, job, timeout=60):
        return self.wait(self.submit(job), longhaul.FINALS, timeout)

    def attempt(self, job_id):
        return self.ask(f"/v1/jobs/{job_id}/attempts")["attempts"][-1]

    def running(self, job):
        """Submits a gang over both nodes and waits until it runs: a rank and a shim on each, no ssh anywhere."""
        job_id = self.submit(job)
        self.wait(job_id, ("running",))
        for i in (1, 2):
            assert len(self.hosts.pids(i, "longhaul-worker")) == 1
            assert not self.hosts.pids(i, "ssh")
        assert self.hosts.pids(1, "mpirun") and not self.hosts.pids(2, "mpirun")
        assert self.hosts.pids(2, "orted")
        return job_id

    def only_daemons(self):
        """What is left on the nodes when no job runs, beside their daemons: should be nothing."""
        return {i: left for i in (1, 2) if (left := set(self.hosts.pids(i)) - set(self.hosts.pids(i, "longhaul-node")))}


@pytest.fixture
def cluster(tmp_path):
    with Hosts(3) as hosts, Cluster(hosts, tmp_path, "timers.stop_grace_ms=2000") as c:
        yield c


def tensor(path, name):
    data = path.read_bytes()
    size, = struct.unpack_from("<Q", data)
    begin, end = json.loads(data[8:8 + size])[name]["data_offsets"]
    values = array.array("f")
    values.frombytes(data[8 + size + begin:8 + size + end])
    return list(values)


def train_job(store, **more):
    """The committed golden case as a job over two slots."""
    case = json.loads((CASE / "case.json").read_text())
    for key in ("about", "loss", "checks", "tolerances", "rope_parameters"):
        case.pop(key, None)
    case["model"] = {"base": f"file://{CASE}/model", "adapter": f"file://{CASE}/adapter"}
    case["data"]["train"] = [f"file://{CASE}/batch.safetensors"]
    case["resources"] = {"slots": 2, "threads": 1, "micro_batches": case.pop("micro_batches")}
    case["checkpoint"] = {"every_steps": 2, "upload": f"file://{store}"}
    return {**case, **more}


def test_a_gang_over_two_hosts_checks_itself_without_ssh(cluster):
    job_id = cluster.running(check_job(1.5, slots=2))
    job = cluster.wait(job_id, longhaul.FINALS)
    assert job["state"] == "succeeded", job
    assert job["result"]["errors"] == 0, job["result"]
    assert sorted((r["rank"], r["node"], r["exit"]) for r in cluster.attempt(job_id)["exit"]["ranks"]) == [(0, "node1", 0), (1, "node2", 0)]
    wait_until(lambda: not cluster.only_daemons(), 10, "the shims are gone")


def test_training_over_two_hosts_gives_the_expected_losses_and_uploads_checkpoints(cluster, tmp_path):
    store = tmp_path / "store"
    job = cluster.run(train_job(store))
    assert job["state"] == "succeeded", job
    lines = (tmp_path / "state" / "jobs" / job["id"] / "1" / "events.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if line["type"] == "step"]
    wanted = tensor(CASE / "expected.safetensors", "loss")
    assert len(losses) == len(wanted) and all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(losses, wanted)), (losses, wanted)

    assert job["checkpoints"]["state"] == "done"
    steps = sorted((store / job["id"] / "attempt-1").iterdir())
    assert [s.name for s in steps] == ["step-00000002", "step-00000004"]
    for step in steps:
        for f in json.loads((step / "manifest.json").read_text())["files"]:
            assert hashlib.sha256((step / f["name"]).read_bytes()).hexdigest() == f["sha256"], f["name"]


def test_a_job_over_two_hosts_starts_from_the_checkpoint_of_another_job(cluster, tmp_path):
    first, second = [j["id"] for j in cluster.ask("/v1/jobs", "POST", [
        train_job(tmp_path / "store", name="first"),
        train_job(tmp_path / "store", name="second", after=[{"job": "first", "when": "ok"}],
                  model={"base": f"file://{CASE}/model", "adapter": "job:first/checkpoint"})])["jobs"]]
    assert cluster.wait(second, longhaul.FINALS)["state"] == "succeeded", cluster.job(second)
    journal = [(tmp_path / "state" / "jobs" / j / "1" / "events.jsonl").read_text().splitlines() for j in (first, second)]
    losses = [[line["loss"] for line in map(json.loads, lines) if line["type"] == "step"] for lines in journal]
    # The same data again after four steps of training: the second job begins where the first has come to.
    assert losses[1][0] < losses[0][0], losses
    for i in (1, 2):
        assert list((tmp_path / f"node{i}" / "cache" / "verified").iterdir()), f"node{i} has staged the checkpoint for itself"


def test_ranks_that_do_not_answer_are_killed_on_both_hosts_after_the_grace(cluster):
    job_id = cluster.running(check_job(300, slots=2))
    for pid in cluster.hosts.pids(1, "mpirun") + cluster.hosts.pids(1, "longhaul-worker") + \
            cluster.hosts.pids(2, "orted") + cluster.hosts.pids(2, "longhaul-worker"):
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    cluster.ask(f"/v1/jobs/{job_id}/cancel", "POST")
    cluster.wait(job_id, ("cancelled",))
    assert time.monotonic() - began >= 2, "they had their grace"
    wait_until(lambda: not cluster.only_daemons(), 10, "no process is left on either host")


def test_a_wall_limit_ends_a_gang_in_order_on_both_hosts(cluster):
    job_id = cluster.running(check_job(300, slots=2, limits={"wall_s": 2}))
    job = cluster.wait(job_id, ("timed_out",))
    ranks = cluster.attempt(job_id)["exit"]["ranks"]
    assert [(r["node"], r["exit"], r.get("signal", 0)) for r in ranks] == [("node1", 85, 0), ("node2", 85, 0)], job
    wait_until(lambda: not cluster.only_daemons(), 10, "no process is left on either host")


@pytest.mark.parametrize("which", [1, 2], ids=["head", "member"])
def test_a_node_daemon_is_killed_during_a_run_and_adopts_its_part_of_the_gang(cluster, which):
    job_id = cluster.running(check_job(3, slots=2))
    ranks = cluster.hosts.pids(which, "longhaul-worker")
    cluster.nodes[which - 1].kill()
    time.sleep(0.5)
    assert cluster.hosts.pids(which, "longhaul-worker") == ranks
    cluster.nodes[which - 1].start()
    job = cluster.wait(job_id, longhaul.FINALS)
    assert (job["state"], job["attempts"]) == ("succeeded", 1), job
    wait_until(lambda: not cluster.only_daemons(), 10, "the shims are gone")
