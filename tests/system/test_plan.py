"""`longhaul plan` and `?dry_run=1`: placement from the coordinator, bytes and FLOPs from a preflight on a node (NODE-19, STATE-12)."""
import json
import threading

import damage
import pytest
from longhaul import Coordinator, Node, wait_until

pytestmark = [pytest.mark.full, pytest.mark.timeout(120)]


def write(tmp_path, job):
    (tmp_path / "job.json").write_text(json.dumps(job))
    return tmp_path / "job.json"


def test_plan_prints_where_a_job_runs_and_what_it_needs(tmp_path, standalone):
    job = damage.train_job(damage.copy_model(tmp_path))
    done = standalone.cli("plan", write(tmp_path, job))
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert "1 slot on " in lines["placement"] and "would start at once" in lines["placement"]
    assert "a rank: " in lines["memory"] and "weights" in lines["memory"]
    assert "FLOP a step" in lines["work"]

    answer = json.loads(standalone.cli("plan", "--json", write(tmp_path, job)).stdout)
    assert answer["plan"]["bytes_per_rank"] > 0 and answer["plan"]["flops_per_step"] > 0
    assert standalone.get("/v1/jobs").json["jobs"] == []
    assert not (standalone.state / "jobs").exists() or not any((standalone.state / "jobs").iterdir())


def test_plan_says_which_member_is_wrong_and_fails(tmp_path, standalone):
    job = damage.train_job(tmp_path / "nowhere")
    done = standalone.cli("plan", write(tmp_path, job))
    assert done.returncode == 1
    assert "/model/base" in done.stderr and "nowhere" in done.stderr
    assert "placement" in done.stdout
    done = standalone.cli("plan", write(tmp_path, {"kind": "trian"}))
    assert done.returncode == 5 and "/kind" in done.stderr


def test_many_dry_runs_at_once_are_all_answered_or_told_to_come_again(tmp_path):
    job = damage.train_job(damage.copy_model(tmp_path))
    replies = []
    with Coordinator(tmp_path / "state", "--set", "limits.dry_runs=4", "--set", "timers.dry_run_ms=60000") as c:
        wait_until(lambda: any(n["state"] == "up" for n in c.get("/v1/nodes").json["nodes"]), 20, "the node is up")
        threads = [threading.Thread(target=lambda: replies.append(c.post("/v1/jobs?dry_run=1", job, timeout=90))) for _ in range(12)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    planned = [r.json for r in replies if r.status == 200]
    assert len(replies) == 12 and len(planned) >= 4
    assert all(p["plan"] and p["plan"]["bytes_per_rank"] > 0 for p in planned), [p["problem"] for p in planned]
    assert all(r.status == 200 or r.status == 503 and r.headers["Retry-After"] for r in replies)


def test_every_node_of_a_gang_makes_the_preflight(tmp_path):
    job = damage.train_job(damage.copy_model(tmp_path), resources={"slots": 2, "threads": 1})
    with Coordinator(tmp_path / "state", standalone=False) as c, Node(c.url, "n1", tmp_path / "n1"), Node(c.url, "n2", tmp_path / "n2") as second:
        wait_until(lambda: len(c.get("/v1/nodes").json["nodes"]) == 2, 20, "two nodes")
        answer = c.post("/v1/jobs?dry_run=1", job).json
        assert [p["slots"] for p in answer["placement"]] == [1, 1] and answer["plan"]["bytes_per_rank"] > 0
        for node in (tmp_path / "n1.log", second.log):
            assert "preflight.done" in node.read_text()
