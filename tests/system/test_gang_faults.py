"""A gang over two hosts when something of it is killed: what the head makes of it, and that nothing is left on either."""
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest
from longhaul import check_job, children_of, wait_until
from test_two_hosts import Cluster, Hosts, pytestmark  # noqa: F401


@pytest.fixture
def cluster(tmp_path):
    with Hosts(3) as hosts, Cluster(hosts, tmp_path) as c:
        yield c


class Gang:
    """A check job over both nodes that runs until something happens to it."""

    def __init__(self, cluster):
        self.c = cluster
        self.id = cluster.ask("/v1/jobs", "POST", check_job(300, slots=2, retry={"infra": 0, "app": 0}))["id"]
        wait_until(lambda: self.job()["state"] == "running", 30, "the gang runs")
        self.dirs = [cluster.tmp / f"node{i}" / "attempts" / self.id / "1" for i in (1, 2)]
        self.shims = [json.loads((d / "shim.json").read_text())["pid"] for d in self.dirs]
        self.below = [children_of(p) for p in self.shims]
        for pids in self.below:
            assert len(pids) >= 3, "launcher, parent of the rank, rank"

    def job(self):
        return self.c.ask(f"/v1/jobs/{self.id}")

    def launcher(self, i):
        """mpirun on node1; orted on node2."""
        return next(p for p in self.below[i] if (pathlib.Path(f"/proc/{p}/comm").read_text().strip() in ("mpirun", "orted")))

    def rank(self, i):
        return json.loads((self.dirs[i] / "ranks" / f"rank-{i}.json").read_text())["pid"]

    def end(self, timeout=30):
        job = wait_until(lambda: (j := self.job())["state"] in ("failed", "cancelled", "succeeded", "timed_out") and j, timeout,
                         "the job ends", every=0.2)
        alive = [p for pids in self.below for p in pids if pathlib.Path(f"/proc/{p}").exists()]
        assert not alive, "a job that is over has no processes"
        return job, self.c.ask(f"/v1/jobs/{self.id}/attempts")["attempts"][0]["exit"]


def test_a_killed_orted_is_a_lost_node(cluster):  # NODE-11, SHIM-7
    g = Gang(cluster)
    os.kill(g.launcher(1), signal.SIGKILL)
    job, end = g.end()
    assert (job["state"], end["class"]) == ("failed", "infra"), end


def test_a_killed_rank_of_another_node_is_an_application_failure(cluster):
    g = Gang(cluster)
    os.kill(g.rank(1), signal.SIGKILL)
    job, end = g.end()
    assert (job["state"], end["class"], end["signal"]) == ("failed", "app", 9), end


def test_a_killed_mpirun_ends_the_ranks_of_both_nodes(cluster):
    g = Gang(cluster)
    os.kill(g.launcher(0), signal.SIGKILL)
    job, end = g.end()
    assert (job["state"], end["class"], end["error"]["code"]) == ("failed", "infra", "launcher_lost"), end


def test_a_cancelled_gang_is_gone_from_both_nodes(cluster):  # NODE-12, 18
    g = Gang(cluster)
    cluster.ask(f"/v1/jobs/{g.id}/cancel", "POST")
    job, end = g.end()
    assert job["state"] == "cancelled", job


def test_a_cut_line_is_noticed_and_both_sides_end_their_ranks(cluster):
    g = Gang(cluster)
    hub = cluster.hosts.names[0]
    subprocess.run(["ip", "-n", hub, "link", "set", "v2", "down"], check=True)
    t0 = time.monotonic()
    wait_until(lambda: (g.dirs[0] / "exit.json").exists(), 40, "the head notices")
    assert json.loads((g.dirs[0] / "exit.json").read_text())["class"] == "infra"
    wait_until(lambda: not [p for p in g.below[1] if pathlib.Path(f"/proc/{p}").exists()], 40, "the cut-off side ends its ranks")
    print("noticed after", time.monotonic() - t0)
    subprocess.run(["ip", "-n", hub, "link", "set", "v2", "up"], check=True)
    job, end = g.end(60)
    assert (job["state"], end["class"]) == ("failed", "infra"), end
