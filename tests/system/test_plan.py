"""`longhaul plan` and `?dry_run=1`: placement from the coordinator, bytes and FLOPs from a preflight on a node (NODE-19, STATE-12)."""
import json
import threading

import damage
import pytest

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


def test_many_dry_runs_at_once_are_all_answered_or_told_to_come_again(tmp_path, standalone):
    job = damage.train_job(damage.copy_model(tmp_path))
    statuses = []

    def ask():
        reply = standalone.post("/v1/jobs?dry_run=1", job)
        statuses.append(reply.status)
        assert reply.status == 503 and reply.headers["Retry-After"] or reply.json["plan"]["bytes_per_rank"] > 0

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(statuses) == 40 and set(statuses) <= {200, 503} and statuses.count(200) >= 32
