"""Bad requests and bad jobs: one clear error that names the member or file and the way out, before anything is claimed.

Requests go to a running daemon. What damaged files look like is in test_bad_files.py; here some of them take the whole way
through coordinator and node, so that the job shows the error.
"""
import json
import socket
import time

import damage
import longhaul
import pytest
from damage import text_job, train_job
from longhaul import check_job, request, wait_until

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with longhaul.Coordinator(tmp_path_factory.mktemp("bad") / "state", "--set", "timers.request_ms=2000") as c:
        wait_until(lambda: any(n["state"] == "up" for n in c.get("/v1/nodes").json["nodes"]), 20, "the node is up")
        yield c


def problem(reply, status, code=None):
    """Every refusal is a problem document of RFC 9457 that can be found again in the log."""
    assert reply.status == status, (reply.status, reply.body)
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.headers["X-Request-Id"] and reply.headers["Cache-Control"] == "no-store"
    document = reply.json
    assert document["status"] == status and document["detail"] and document["title"]
    assert document["type"] == f"urn:longhaul:problem:{document['code']}"
    assert document["instance"].endswith(reply.headers["X-Request-Id"])
    assert code is None or document["code"] == code, document
    return document


# ---- the request ------------------------------------------------------------------------------------------------------

BAD_BODIES = {
    "not JSON": (b"{nope", 400, "line 1, column"),
    "empty": (b"", 400, "JSON"),
    "two documents": (b"{} {}", 400, "end of file expected"),
    "not UTF-8": (b'{"name": "\xff\xfe"}', 400, "UTF-8"),
    "UTF-16": ('{"kind": "check"}'.encode("utf-16"), 400, "UTF-8"),
    "a NUL in a string": (b'{"name": "a\\u0000b", "kind": "check"}', 400, "u0000"),
    "duplicate keys": (b'{"kind": "check", "kind": "check"}', 400, "duplicate object key near '\"kind\"'"),
    "nested too deep": (b"[" * 65 + b"]" * 65, 400, "deeper than 64 levels"),
    "nested without end": (b"[" * 500_000, 400, "deeper than 64 levels"),
    "no job in a pipeline": (b"[]", 422, "1 to 256 jobs"),
    "too many jobs in a pipeline": (b"[" + b'{"kind": "check"},' * 256 + b'{"kind": "check"}]', 422, "257"),
    "a number": (b"7", 422, "object"),
    "null": (b"null", 422, "object"),
}


@pytest.mark.parametrize("what", BAD_BODIES)
def test_a_body_that_is_no_job_is_refused(daemon, what):
    body, status, words = BAD_BODIES[what]
    assert words in problem(daemon.post("/v1/jobs", body), status)["detail"]


def test_a_body_over_the_limit_is_refused_and_the_limit_named(daemon):
    body = b'{"kind": "check", "name": "' + b"x" * (1 << 20) + b'"}'
    assert "1048576 bytes" in problem(daemon.post("/v1/jobs", body), 413, "body_too_large")["detail"]
    fits = b'{"kind": "chekc", "name": "' + b"x" * ((1 << 20) - 30) + b'"}'
    assert daemon.post("/v1/jobs", fits).status == 422


def test_a_chunked_body_over_the_limit_is_refused_and_the_limit_named(daemon):
    with connection(daemon) as s:
        s.settimeout(10)
        s.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                  b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        for _ in range(20):
            s.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        s.sendall(b"0\r\n\r\n")
        answer = s.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413 ") and b"1048576 bytes" in answer


def test_another_media_type_is_refused(daemon):
    reply = daemon.post("/v1/jobs", b"kind: check", headers={"Content-Type": "application/yaml"})
    assert "application/json" in problem(reply, 415)["detail"]


def test_an_unknown_job_is_a_404_that_names_it(daemon):
    for path in ("", "/events", "/logs", "/attempts", "/checkpoints", "/metrics", "/explain"):
        assert "'none-such'" in problem(daemon.get(f"/v1/jobs/none-such{path}"), 404, "no_such_job")["detail"]
    for action in ("cancel", "hold", "release"):
        assert "'none-such'" in problem(daemon.post(f"/v1/jobs/none-such/{action}"), 404, "no_such_job")["detail"]
    shown = daemon.cli("show", "none-such")
    assert shown.returncode == 5 and "none-such" in shown.stderr


@pytest.mark.parametrize("path, status, words", [
    ("/v1/jobs?limit=abc", 400, "1 to 500"), ("/v1/jobs?limit=0", 400, "1 to 500"), ("/v1/jobs?state=runing", 400, "running"),
    ("/v1/jobs?lmit=3", 400, "lmit: unknown parameter; did you mean limit?"), ("/v1/nodes?x=1", 400, "x: unknown parameter"),
    ("/v1/jobs?cursor=zzz", 400, "cursor"), ("/v1/events?after=-1", 400, "after"), ("/nope", 404, "/nope"),
    ("/v1/jobs/%zz", 400, "URI"), ("/v1/jobs/%00", 400, "URI"), ("/v1/jobs/" + "x" * 9000, 414, "8 KiB")])
def test_a_path_or_parameter_that_makes_no_sense_is_refused(daemon, path, status, words):
    assert words in problem(daemon.get(path), status)["detail"]


def test_a_mistyped_dry_run_submits_nothing(daemon):
    before = daemon.get("/v1/jobs?limit=500").json["jobs"]
    reply = daemon.post("/v1/jobs?dryrun=1", check_job(0.1))
    assert "did you mean dry_run?" in problem(reply, 400, "bad_parameter")["detail"]
    assert daemon.get("/v1/jobs?limit=500").json["jobs"] == before


def test_a_method_that_is_not_taken_names_those_that_are(daemon):
    reply = request(daemon.url + "/v1/jobs", "DELETE")
    assert "GET" in problem(reply, 405)["detail"] and reply.headers["Allow"] == "GET, HEAD, POST"


def connection(daemon):
    host, port = daemon.url[len("http://"):].split(":")
    return socket.create_connection((host, int(port)))


@pytest.mark.parametrize("part", ["the header", "the body"])
def test_a_client_that_drips_its_request_is_cut_and_others_are_served(daemon, part):
    """Each byte would restart a timeout between bytes; the request as a whole has request_ms, here 2 s."""
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    began, cut = time.monotonic(), None
    with connection(daemon) as s:
        s.sendall(head + (b"X-Slow: " if part == "the header" else b"Content-Length: 1000\r\n\r\n"))
        while cut is None and time.monotonic() - began < 8:
            try:
                s.send(b"a")
                time.sleep(0.1)
                assert request(daemon.url + "/livez").status == 200
            except OSError:
                cut = time.monotonic() - began
    assert cut is not None, "the dripping client was never cut"
    assert 1.5 < cut < 5
    wait_until(lambda: b'reason="slow_request"' in daemon.get("/metrics").body, 5, "the cut is counted")


NOT_HTTP = {
    "a Content-Length below zero": b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    "a Content-Length beyond 64 bits": b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "two Content-Lengths": b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "a length and chunks": b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "broken chunks": b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "another version": b"GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "no Host": b"GET /livez HTTP/1.1\r\n\r\n",
    "a bare LF": b"GET /livez HTTP/1.1\nHost: localhost\n\n",
    "noise": bytes(range(128, 256)) + b"\r\n\r\n",
}


@pytest.mark.parametrize("what", NOT_HTTP)
def test_what_is_no_http_is_refused_and_the_connection_closed(daemon, what):
    with connection(daemon) as s:
        s.settimeout(5)
        s.sendall(NOT_HTTP[what])
        answer = s.makefile("rb").read()  # to the end: the server closes
    assert not answer or answer.split(b" ", 2)[1][:1] in (b"4", b"5"), answer[:200]
    assert daemon.get("/livez").status == 200


# ---- members of a job -------------------------------------------------------------------------------------------------

TRAIN = {"kind": "train", "model": {"base": "file:///m"}, "context": {"length": 16384}, "data": {"train": ["file:///d"]},
         "optim": {"lr": 1e-4, "steps": 10}}


def but(**sections):
    """A sound job for training with some members of its sections changed."""
    return {**TRAIN, **{k: {**TRAIN.get(k, {}), **v} if isinstance(v, dict) else v for k, v in sections.items()}}


BAD_JOBS = [
    ({"kind": "check", "resuorces": {"slots": 1}}, "/resuorces", "unknown_member", "did you mean resources?"),
    ({"kind": "check", "resources": {"slotss": 1}}, "/resources/slotss", "unknown_member", "slots"),
    (but(optim={"learning_rate": 1e-4}), "/optim/learning_rate", "unknown_member", "known here: lr, "),
    (but(context={"lenght": 4}), "/context/lenght", "unknown_member", "length"),
    ({"kind": "check", "x/y~z": 1}, "/x~1y~0z", "unknown_member", "known here: name, kind, "),
    ({"kind": "check", "resources": {"slots": "two"}}, "/resources/slots", "wrong_type", "whole number"),
    ({"kind": "check", "resources": {"slots": 1.5}}, "/resources/slots", "wrong_type", "whole number"),
    ({"kind": "check", "resources": {"slots": 0}}, "/resources/slots", "out_of_range", "at least 1 and at most 4096"),
    ({"kind": "check", "resources": {"slots": -1}}, "/resources/slots", "out_of_range", "at least 1 and at most 4096"),
    ({"kind": "check", "resources": {"slots": 4097}}, "/resources/slots", "out_of_range", "at least 1 and at most 4096"),
    ({"kind": "check", "resources": {"device": "gpu"}}, "/resources/device", "bad_value", "cpu"),
    ({"kind": "trian"}, "/kind", "bad_value", "train"),
    ({"kind": "generate", "model": {"base": "file:///m"}}, "/generate/prompts", "missing", "texts to go on with"),
    ({"kind": "export", "model": {"base": "file:///m"}, "export": {"dtype": "q8_0"}}, "/export/dtype", "conflict", "gguf"),
    ({}, "/kind", "missing", "train"),
    ({"kind": "train"}, "/model/base", "missing", "model.base"),
    (but(model={"base": "ftp://x/y"}), "/model/base", "bad_value", "file://"),
    (but(context={"length": -5}), "/context/length", "out_of_range", "at least 2 and at most 16777216"),
    (but(context={"length": 1}), "/context/length", "out_of_range", "at least 2 and at most 16777216"),
    (but(context={"length": 1 << 40}), "/context/length", "out_of_range", "at least 2 and at most 16777216"),
    (but(context={"length": "16k"}), "/context/length", "wrong_type", "whole number"),
    (but(context={"length": 4100}), "/context/attention/group", "missing", "multiple of 8 (try 4096)"),
    (but(context={"attention": {"type": "s2", "group": 4097}}), "/context/attention/group", "bad_value", "even (try 4096)"),
    (but(context={"attention": {"type": "s2", "group": 0}}), "/context/attention/group", "out_of_range", "at least 2"),
    (but(context={"attention": {"type": "s2", "group": 16386}}), "/context/attention/group", "out_of_range", "16384"),
    (but(context={"attention": {"type": "s3"}}), "/context/attention/type", "bad_value", "s2"),
    (but(context={"rope": {"type": "default", "factor": 2}}), "/context/rope/factor", "conflict", "linear"),
    (but(resources={"slots": 4}, optim={"batch_sequences": 2}), "/optim/batch_sequences", "conflict", "at most 2 slots"),
    (but(optim={"warmup_steps": 11}), "/optim/warmup_steps", "conflict", "optim.steps 10"),
    (but(optim={"lr": float("1e9")}), "/optim/lr", "out_of_range", "10"),
    (but(data={"train": []}), "/data/train", "bad_value", "at least one"),
    (but(checkpoint={"upload": "job:x/checkpoint"}), "/checkpoint/upload", "bad_value", "s3://"),
    ({"kind": "check", "after": [{"job": "x", "when": "later"}]}, "/after/0/when", "bad_value", "not_ok"),
]


@pytest.mark.parametrize("job, pointer, code, words", BAD_JOBS, ids=[f"{b[1]} {b[2]} {i}" for i, b in enumerate(BAD_JOBS)])
def test_a_bad_member_is_named_with_the_way_out(daemon, job, pointer, code, words):
    errors = {e["pointer"]: e for e in problem(daemon.post("/v1/jobs", job), 422, "bad_job")["errors"]}
    assert pointer in errors, errors
    assert errors[pointer]["code"] == code, errors
    assert words in errors[pointer]["detail"], errors


def test_every_bad_member_is_told_at_once_and_nothing_is_stored(daemon):
    before = daemon.get("/v1/jobs?limit=500").json["jobs"]
    job = but(resuorces=1, context={"length": -1}, optim={"steps": "many"}, model={"base": 7})
    document = problem(daemon.post("/v1/jobs", job), 422, "bad_job")
    assert {e["pointer"] for e in document["errors"]} == {"/resuorces", "/context/length", "/optim/steps", "/model/base"}
    pipeline = problem(daemon.post("/v1/jobs", [check_job(0.1), {"kind": "chekc"}]), 422, "bad_job")
    assert [e["pointer"] for e in pipeline["errors"]] == ["/1/kind"]
    assert daemon.get("/v1/jobs?limit=500").json["jobs"] == before


def test_the_command_line_shows_every_bad_member(daemon, tmp_path):
    (tmp_path / "job.yaml").write_text("kind: check\nresuorces: {slots: 1}\npriorty: 1\n")
    done = daemon.cli("submit", tmp_path / "job.yaml")
    assert done.returncode == 5 and "mean resources?" in done.stderr and "/priorty" in done.stderr, done.stderr
    (tmp_path / "job.yaml").write_text("kind: [check\n")
    done = daemon.cli("submit", tmp_path / "job.yaml")
    assert done.returncode == 2 and "job.yaml" in done.stderr and "line" in done.stderr, done.stderr


# ---- the whole way: preflight, and what only training can find ----------------------------------------------------------

def fails(daemon, job, pointer, *words, code="bad_input"):
    """The job ends failed before any attempt, and shows the preflight's error to programs and to people."""
    job_id = daemon.submit(job)
    ended = daemon.wait(job_id, "failed", 20)
    assert ended["attempts"] == 0 and ended["started_at"] is None
    error = ended["error"]
    assert (error["code"], error["class"], error["pointer"]) == (code, "app", pointer), error
    for word in words:
        assert word in error["detail"], error
    assert words[0] in daemon.cli("show", job_id).stdout
    return ended


def test_a_model_without_config_fails_the_preflight(daemon, tmp_path):
    model = damage.copy_model(tmp_path)
    (model / "config.json").unlink()
    fails(daemon, train_job(model), "/model/base", str(model), "config.json")


def test_a_truncated_model_fails_the_preflight(daemon, tmp_path):
    model = damage.copy_model(tmp_path)
    damage.weights(model).write_bytes(damage.weights(model).read_bytes()[:-1000])
    fails(daemon, train_job(model), "/model/base", "model.safetensors", "cut short")


def test_absent_data_fails_the_preflight(daemon, tmp_path):
    job = train_job(damage.copy_model(tmp_path), data={"train": [f"file://{tmp_path}/no.safetensors"], "format": "tokens", "pack": False})
    fails(daemon, job, "/data/train/0", str(tmp_path / "no.safetensors"))


def test_a_tokenizer_that_does_not_match_the_vocabulary_fails_the_preflight(daemon, tmp_path):
    model = damage.copy_model(tmp_path)
    damage.tokenizer(model, 2094)
    (tmp_path / "text.txt").write_text(damage.PROSE * 100)
    fails(daemon, text_job(model, tmp_path / "text.txt"), "/model/base", "tokenizer", "2094", "96")


@pytest.mark.skipif(not longhaul.GGUF.exists(), reason="no model in the cache (deploy/quickstart fetches one)")
def test_text_that_is_none_fails_the_preflight(daemon, tmp_path):
    (tmp_path / "text.txt").write_bytes(b"caf\xe9 " * 100)
    fails(daemon, text_job(longhaul.GGUF, tmp_path / "text.txt"), "/data/train", "text.txt", "UTF-8")


def test_a_plan_that_does_not_fit_fails_the_preflight_and_shows_its_table(daemon, tmp_path):
    job = train_job(damage.copy_model(tmp_path), limits={"memory_bytes": 400_000})
    fails(daemon, job, "/limits/memory_bytes", "weights", "activations", "optimizer", "391 KiB", code="not_enough_memory")


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_loss_that_is_not_a_number_stops_the_job_and_names_step_and_tensor(daemon, tmp_path, ranks):
    model = damage.copy_model(tmp_path)
    damage.set_last_weight(model, float("nan"))
    job_id = daemon.submit(train_job(model, resources={"slots": ranks, "threads": 1}))
    ended = daemon.wait(job_id, "failed")
    error = ended["error"]
    assert ended["attempts"] == 1  # a verdict: the same input gives the same end, so it is not tried again
    assert (error["code"], error["class"], error["exit"]) == ("not_finite", "app", 86), error
    last = damage.last_tensor(model)
    assert "step 1:" in error["detail"] and "nan" in error["detail"] and f"'{last}'" in error["detail"], error
    assert last in daemon.cli("show", job_id).stdout
    assert last in daemon.get(f"/v1/jobs/{job_id}/logs?rank=0").body.decode()
