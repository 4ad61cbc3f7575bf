"""The running daemon against its own description: every answer conforms to /v1/openapi.json.

schemathesis makes requests from the document, good and bad ones, and checks status, media type, headers and body of
each answer. The copy that it is given has no long waits for a change and no endless stream: test_api.c has those.
"""
import copy
import importlib.util
import json
import subprocess
import sys

import pytest

from longhaul import check_job, request

pytestmark = pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None,
                                reason="schemathesis is not installed (tests/requirements.txt)")

# What a schema cannot say: a job's members must fit each other, a revision must be the job's own, an offset lies in
# the log.
CONFIG = """
[[operations]]
include-method = "POST"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404, 409, 412, 422]

[[operations]]
include-method = "GET"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 400, 404, 416]
"""


@pytest.fixture
def document(standalone):
    document = standalone.get("/v1/openapi.json").json
    show = document["paths"]["/v1/jobs/{id}"]["get"]
    show["parameters"] = [p for p in show["parameters"] if not p.get("$ref", "").endswith("/Wait")]
    del document["paths"]["/v1/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    return document


def run(tmp_path, standalone, document, *words, config=CONFIG):
    (tmp_path / "api.json").write_text(json.dumps(document))
    (tmp_path / "schemathesis.toml").write_text(config)
    done = subprocess.run([sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "schemathesis.toml"),
                           "run", str(tmp_path / "api.json"), "--url", standalone.url, "--no-color", "--seed", "17",
                           "--phases", "examples,coverage,fuzzing", "--request-timeout", "20", *words],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


def only(document, *paths):
    """The document cut down to some paths."""
    document = copy.deepcopy(document)
    document["paths"] = {p: v for p, v in document["paths"].items() if p in paths}
    return document


def test_every_answer_conforms_to_the_document(tmp_path, standalone, document):
    paths = [p for p in document["paths"] if p != "/v1/events"]
    run(tmp_path, standalone, only(document, *paths), "--max-examples", "6")
    assert standalone.get("/readyz").status == 200


def test_answers_about_a_job_that_ran_conform(tmp_path, standalone, document):
    job = standalone.submit(check_job(0.5))
    standalone.wait(job, "succeeded")
    paths = [p for p in document["paths"] if p.startswith("/v1/jobs/{id}") and p.split("/")[-1] not in ("hold", "release")]
    run(tmp_path, standalone, only(document, *paths), "--max-examples", "6",
        config=CONFIG + f'\n[parameters]\n"path.id" = "{job}"\n')
    assert standalone.job(job)["state"] == "succeeded"


def test_event_lists_conform(tmp_path, standalone, document):
    standalone.wait(standalone.submit(check_job(0.2)), "succeeded")
    run(tmp_path, standalone, only(document, "/v1/events"), "--max-examples", "6", "-H", "Accept: application/json")


def test_the_document_and_the_daemon_take_the_same_methods(standalone, document):
    """A method that no route takes is answered 405 with those that are taken."""
    for path, item in document["paths"].items():
        concrete = path.replace("{id}", "no-such-job").replace("{name}", "no-such-node")
        allowed = set((request(standalone.url + concrete, "DELETE").headers["Allow"] or "").split(", ")) - {"HEAD"}
        assert allowed == {m.upper() for m in item if m in ("get", "post", "put", "patch", "delete")}, path
