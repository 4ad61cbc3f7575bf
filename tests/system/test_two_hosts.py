"""Two machines and a coordinator, as network namespaces with their own host names, over a bridge."""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess

import longhaul
import pytest
from longhaul import check_job, wait_until

pytestmark = [pytest.mark.full,
              pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2")]


def run(*words):
    subprocess.run(words, check=True, capture_output=True)


class Hosts:
    """Namespaces NAME0, NAME1, ... at 10.77.0.1, 10.77.0.2, ...; NAME0 holds the bridge."""

    def __init__(self, n):
        self.names = [f"lh{os.getpid() % 10000}h{i}" for i in range(n)]
        self.addresses = [f"10.77.0.{i + 1}" for i in range(n)]

    def prefix(self, i):
        """Command prefix that runs a program on host i, under the host's own name."""
        name = self.names[i]
        return ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", f"hostname {name}; exec \"$@\"", "sh"]

    def __enter__(self):
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
        return self

    def __exit__(self, *error):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(pathlib.Path("/etc/netns") / name, ignore_errors=True)


class Cluster:
    """A coordinator on host 0, one node of one slot on each of the others; requests are made from host 0."""

    def __init__(self, hosts, tmp_path):
        self.hosts, self.tmp = hosts, tmp_path
        self.token = tmp_path / "token"
        self.token.write_text("a-token-of-this-test-run-0123456789\n")
        self.token.chmod(0o600)
        digest = hashlib.sha256(self.token.read_text().strip().encode()).hexdigest()
        tokens = tmp_path / "tokens"
        tokens.write_text(f"operator test {digest}\n")
        self.coordinator = longhaul.Coordinator(
            tmp_path / "state", "--listen", f"{hosts.addresses[0]}:7433", "--insecure", "--token-file", tokens,
            standalone=False, prefix=hosts.prefix(0))
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

    def run(self, job, timeout=120):
        job_id = self.ask("/v1/jobs", "POST", job)["id"]
        return wait_until(lambda: (j := self.ask(f"/v1/jobs/{job_id}"))["state"] in longhaul.FINALS and j, timeout, f"{job_id} ends",
                          every=0.3)


@pytest.fixture
def cluster(tmp_path):
    with Hosts(3) as hosts, Cluster(hosts, tmp_path) as c:
        yield c


def test_a_gang_over_two_hosts_checks_itself_without_ssh(cluster):
    job = cluster.run(check_job(0.5, slots=2))
    assert job["state"] == "succeeded", job
    attempt = cluster.ask(f"/v1/jobs/{job['id']}/attempts")["attempts"][0]
    assert sorted(r["node"] for r in attempt["exit"]["ranks"]) == ["node1", "node2"]


def test_training_over_two_hosts_stages_on_each_and_uploads_a_checkpoint(cluster, tmp_path):
    golden = pathlib.Path(os.environ.get("LONGHAUL_GOLDEN", longhaul.ROOT.parent / "shared" / "golden")) / "s2-mha"
    if not golden.exists():
        pytest.skip(f"no golden model at {golden}")
    text = tmp_path / "store"
    text.mkdir()
    job = cluster.run({
        "name": "two-hosts", "kind": "train", "precision": "fp32", "model": {"base": f"file://{golden}/model"},
        "context": {"length": 64, "rope": {"type": "linear", "factor": 4}, "attention": {"type": "s2", "group": 16}},
        "data": {"train": [f"file://{golden}/batch.safetensors"], "format": "tokens", "pack": False},
        "optim": {"lr": 0.01, "warmup_steps": 0, "batch_sequences": 2, "steps": 4},
        "checkpoint": {"every_steps": 2, "upload": f"file://{text}"}, "resources": {"slots": 2, "threads": 1}})
    assert job["state"] == "succeeded", job
    assert job["checkpoints"]["state"] == "done"
    written = sorted(p.name for p in text.rglob("manifest.json"))
    assert written, "no checkpoint in the store"
