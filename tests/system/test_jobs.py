"""One machine: jobs from submission to their end, through the real programs."""
import json
import os
import signal
import subprocess
import time

import longhaul
import pytest
from longhaul import check_job, wait_until

pytestmark = pytest.mark.full


def pids_of_job(c, job_id):
    """Processes of a job's attempts: their command line, environment or working directory names it below the state directory."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = b"".join(open(f"/proc/{entry}/{part}", "rb").read() for part in ("cmdline", "environ")).decode(errors="replace")
            text += os.readlink(f"/proc/{entry}/cwd")
        except OSError:
            continue
        if job_id in text and str(c.state) in text:
            found.append(int(entry))
    return found


def test_a_gang_of_two_ranks_checks_itself_and_succeeds(standalone):
    job = standalone.wait(standalone.submit(check_job(0.5, slots=2)), "succeeded")
    assert job["result"]["errors"] == 0
    assert job["attempts"] == 1
    attempts = standalone.get(f"/v1/jobs/{job['id']}/attempts").json["attempts"]
    assert attempts[0]["outcome"] == "ok"
    assert [r["exit"] for r in attempts[0]["exit"]["ranks"]] == [0, 0]


def test_jobs_run_in_the_order_of_submission(standalone):
    first = standalone.submit(check_job(2.5, slots=2))
    standalone.wait(first, "running")
    ids = [standalone.submit(check_job(0.2, slots=2)) for _ in range(3)]
    for i in ids:
        standalone.wait(i, "queued")  # ready, all of them, while the slots are taken
    ended = [standalone.wait(i, "succeeded", 120)["started_at"] for i in ids]
    assert ended == sorted(ended)


def test_every_transition_is_an_event_with_growing_numbers(standalone):
    job = standalone.submit(check_job(0.2))
    standalone.wait(job, "succeeded")
    events = standalone.get(f"/v1/jobs/{job}/events").json["events"]
    states = [e["data"]["state"] for e in events if e["type"].startswith("job.")]
    assert [e["seq"] for e in events] == sorted({e["seq"] for e in events})
    assert states[-1] == "succeeded"


def test_a_cancelled_jobs_ranks_are_gone_before_it_says_cancelled(standalone):
    job = standalone.submit(check_job(60, slots=2))
    standalone.wait(job, "running")
    assert pids_of_job(standalone, job)
    assert standalone.post(f"/v1/jobs/{job}/cancel").status in (200, 202)
    standalone.wait(job, "cancelled")
    assert pids_of_job(standalone, job) == []
    assert standalone.post(f"/v1/jobs/{job}/cancel").status == 200  # again: no change, no error


def test_a_held_job_waits_until_it_is_released(standalone):
    job = standalone.submit(check_job(0.2, hold=True))
    time.sleep(1)
    assert standalone.job(job)["state"] == "held"
    assert standalone.post(f"/v1/jobs/{job}/release").status == 200
    standalone.wait(job, "succeeded")


def test_a_job_runs_after_the_one_it_names(standalone):
    first = standalone.submit(check_job(0.5, name="first"))
    second = standalone.submit(check_job(0.2, name="second", after=[{"job": first, "when": "ok"}]))
    a, b = standalone.wait(first, "succeeded"), standalone.wait(second, "succeeded")
    assert b["started_at"] >= a["ended_at"]


def test_a_job_larger_than_the_cluster_is_accepted_and_says_why_it_waits(standalone):
    job = standalone.submit(check_job(0.2, slots=64))
    wait_until(lambda: standalone.job(job)["reason"] == "infeasible", what="the reason is infeasible")
    small = standalone.submit(check_job(0.2))
    standalone.wait(small, "succeeded")  # it does not block the queue
    reason = standalone.get(f"/v1/jobs/{job}/explain").json
    assert reason["reason"] == "infeasible" and "64" in reason["detail"]


def test_one_key_is_one_job(standalone):
    key = {"Idempotency-Key": "abc-1"}
    a = standalone.post("/v1/jobs", check_job(0.2), headers=key)
    b = standalone.post("/v1/jobs", check_job(0.2), headers=key)
    c = standalone.post("/v1/jobs", check_job(0.3), headers=key)
    assert (a.status, b.status, c.status) == (201, 201, 422)
    assert a.json["id"] == b.json["id"]
    assert b.headers["Idempotency-Replayed"] == "true"


def test_a_pipeline_is_taken_whole_or_not_at_all(standalone):
    before = len(standalone.get("/v1/jobs?limit=500").json["jobs"])
    bad = standalone.post("/v1/jobs", [check_job(0.2), {"kind": "chekc"}])
    assert bad.status == 422
    assert len(standalone.get("/v1/jobs?limit=500").json["jobs"]) == before
    good = standalone.post("/v1/jobs", [check_job(0.2, name="p1"), check_job(0.2, name="p2", after=[{"job": "p1", "when": "ok"}])])
    assert good.status == 201 and len(good.json["jobs"]) == 2
    for job in good.json["jobs"]:
        standalone.wait(job["id"], "succeeded")


def test_the_coordinator_is_killed_while_a_job_runs_and_adopts_it(standalone):
    job = standalone.submit(check_job(4, slots=2))
    standalone.wait(job, "running")
    attempts = standalone.job(job)["attempts"]
    standalone.kill()
    standalone.start()
    assert standalone.job(job)["state"] in ("running", "succeeded")
    ended = standalone.wait(job, "succeeded")
    assert ended["attempts"] == attempts  # adopted, not started again
    log = standalone.get(f"/v1/jobs/{job}/logs?rank=0").body.decode()
    journal = [json.loads(x) for x in (standalone.state / "jobs" / job / "1" / "events.jsonl").read_text().splitlines()]
    assert journal[-1]["type"] == "done", (journal[-1], log)


def test_the_node_daemon_is_killed_while_a_job_runs_and_adopts_it(tmp_path):
    with longhaul.Coordinator(tmp_path / "state", standalone=False) as c:
        node = longhaul.Node(c.url, "n1", tmp_path / "node", slots=2).start()
        try:
            job = c.submit(check_job(4, slots=2))
            c.wait(job, "running")
            node.kill()
            time.sleep(1)
            node.start()
            assert c.wait(job, "succeeded")["attempts"] == 1
        finally:
            node.stop()


def test_acknowledged_jobs_survive_kill_9(tmp_path):
    c = longhaul.Coordinator(tmp_path / "state", standalone=False).start()
    acknowledged = []
    try:
        for round_number in range(3):
            for _ in range(20):
                acknowledged.append(c.submit(check_job(0.2, hold=True)))
            c.kill()
            c.start()
        ids = []
        cursor = ""
        while cursor is not None:
            page = c.get(f"/v1/jobs?limit=50{'&cursor=' + cursor if cursor else ''}").json
            ids += [j["id"] for j in page["jobs"]]
            cursor = page["next_cursor"]
        assert sorted(ids) == sorted(acknowledged)
        assert len(set(ids)) == len(ids)
    finally:
        c.stop()


def test_a_killed_rank_fails_the_attempt_and_the_reason_names_it(standalone):
    job = standalone.submit(check_job(60, slots=2, retry={"app": 0, "infra": 0}))
    standalone.wait(job, "running")
    workers = [p for p in pids_of_job(standalone, job)
               if os.path.basename(os.readlink(f"/proc/{p}/exe")) == "longhaul-worker"]
    os.kill(workers[-1], signal.SIGKILL)
    ended = standalone.wait(job, "failed")
    assert "9" in json.dumps(ended["error"]) or "signal" in json.dumps(ended["error"]).lower()
    assert pids_of_job(standalone, job) == []


def test_a_wall_limit_ends_the_job_timed_out(standalone):
    job = standalone.submit(check_job(60, limits={"wall_s": 2}))
    standalone.wait(job, "timed_out")


def test_the_command_line_does_what_its_help_says(standalone, tmp_path):
    spec = tmp_path / "job.yaml"
    spec.write_text("name: from-yaml\nkind: check\ncheck: {seconds: 0.3}\nresources:\n  slots: 1\n")
    done = standalone.cli("submit", "--quiet", spec)
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert standalone.cli("wait", "--no-progress", job).returncode == 0
    assert "from-yaml" in standalone.cli("list").stdout
    assert json.loads(standalone.cli("show", "--json", job).stdout)["state"] == "succeeded"
    assert standalone.cli("logs", job).returncode == 0
    assert "succeeded" in standalone.cli("events", job).stdout
    assert "local" in standalone.cli("nodes").stdout
    assert "longhauld" in standalone.cli("status").stdout
    held = standalone.submit(check_job(0.2, hold=True))
    assert standalone.cli("cancel", held).returncode == 0
    assert standalone.cli("wait", "--no-progress", held).returncode == 3
    assert standalone.cli("show", "nothing-here").returncode == 5
    assert standalone.cli("shwo", held).returncode == 2
    gone = subprocess.run([str(longhaul.BIN / "longhaul"), "--server", f"http://127.0.0.1:{longhaul.free_port()}", "list"],
                          capture_output=True, text=True)
    assert gone.returncode == 69 and "longhauld" in gone.stderr


def test_metrics_pass_promtool(standalone):
    standalone.wait(standalone.submit(check_job(0.2)), "succeeded")
    text = standalone.get("/metrics").body
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"longhaul_jobs" in text


def test_server_sent_events_resume_where_they_stopped(standalone):
    first = standalone.submit(check_job(0.2))
    standalone.wait(first, "succeeded")
    listed = standalone.get("/v1/events?after=0&limit=500", headers={"Accept": "application/json"}).json["events"]
    cut = listed[len(listed) // 2]["seq"]
    sse = subprocess.run(["curl", "-sN", "--max-time", "2", "-H", f"Last-Event-ID: {cut}", standalone.url + "/v1/events"],
                         capture_output=True, text=True).stdout
    ids = [int(line[4:]) for line in sse.splitlines() if line.startswith("id: ")]
    missed = [e["seq"] for e in listed if e["seq"] > cut]
    assert ids[:len(missed)] == missed  # and what has happened since
