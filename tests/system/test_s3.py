"""Uploads to, and inputs from, a real S3 server that checks signatures."""
import hashlib
import json
import time

import pytest
from longhaul import Node, wait_until
from test_node import CHECKPOINTS, bench  # noqa: F401
from weed import PACKAGE, Weed, find_weed

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def program():
    found = find_weed()
    if not found:
        pytest.skip(f"{PACKAGE} cannot be installed here, and LONGHAUL_WEED names no weed program")
    return found


@pytest.fixture(scope="module")
def weed(program, tmp_path_factory):
    w = Weed(program, tmp_path_factory.mktemp("s3") / "weed").start()
    yield w
    w.kill()


@pytest.fixture
def x(request):
    """A prefix of the test's own."""
    return hashlib.sha256(request.node.name.encode()).hexdigest()[:8]


def config(weed, path, key="LHKEY", secret="LHSECRET"):
    path.write_text(f"# of a test\nAWS_ENDPOINT_URL={weed.url}\nexport AWS_ACCESS_KEY_ID={key}\nAWS_SECRET_ACCESS_KEY=\"{secret}\"\n")
    return path


def verified(weed, prefix):
    manifest = json.loads(weed.get(f"{prefix}/manifest.json"))
    for f in manifest["files"]:
        data = weed.get(f"{prefix}/{f['name']}")
        assert len(data) == f["bytes"] and hashlib.sha256(data).hexdigest() == f["sha256"], f["name"]
    return manifest


ONE = CHECKPOINTS + '[ $rank = 0 ] && checkpoint 1; sleep 0.5; exit 0'


def test_small_and_large_files_arrive_whole_and_are_resumed_from(bench, weed, tmp_path, monkeypatch):  # CKPT-15
    monkeypatch.setenv("TEST_BYTES", str(20 << 20))  # three parts each
    b = bench(CHECKPOINTS + 'if [ -e resume ]; then sha256sum resume/state.json; exit 0; fi; [ $rank = 0 ] && checkpoint 1; exit 0',
              "--s3-config", config(weed, tmp_path / "s3.env"))
    assert b.run_to("j1", "exited", upload="s3://models/a b/c+d")["outcome"] == "ok"
    r = b.c.got("upload", step=1, state="done")[0]
    assert r["uri"] == "s3://models/a b/c+d/j1/attempt-1/step-00000001"
    manifest = verified(weed, "a%20b/c%2Bd/j1/attempt-1/step-00000001")
    digest = hashlib.sha256(weed.get("a%20b/c%2Bd/j1/attempt-1/step-00000001/manifest.json")).hexdigest()
    assert digest == r["manifest_sha256"]
    b.run_to("j1", "exited", attempt=2, resume={"uri": r["uri"], "manifest_sha256": digest, "step": 1})
    assert manifest["files"][1]["sha256"].encode() in b.c.files["j1/2/0.log"]
    assert [p.name for p in (b.state / "cache" / "objects").iterdir()] == [digest]


def test_a_wrong_secret_fails_the_upload_for_good_and_nothing_else(bench, weed, tmp_path, x):  # CKPT-16
    b = bench(ONE, "--s3-config", config(weed, tmp_path / "s3.env", secret="wrong"))
    assert b.run_to("j1", "exited", upload=f"s3://models/{x}")["outcome"] == "ok"
    r = b.c.got("upload", step=1, state="failed")[0]
    assert "SignatureDoesNotMatch" in r["error"]
    b.c.send("forget", job="j1", attempt=1)
    kept = b.state / "kept" / "j1" / "attempt-1" / "step-00000001" / "manifest.json"
    wait_until(kept.exists, 10, "the checkpoint is kept")


def test_a_key_that_may_only_read_fails_with_the_servers_word(bench, weed, tmp_path, x):
    b = bench(ONE, "--s3-config", config(weed, tmp_path / "s3.env", "ROKEY", "ROSECRET"))
    assert b.run_to("j1", "exited", upload=f"s3://models/{x}")["outcome"] == "ok"
    assert "AccessDenied" in b.c.got("upload", step=1, state="failed")[0]["error"]


def test_missing_credentials_are_named(bench, tmp_path, x):
    path = tmp_path / "s3.env"
    path.write_text("AWS_ACCESS_KEY_ID=x\n")
    b = bench(ONE, "--s3-config", path)
    b.run_to("j1", "exited", upload=f"s3://models/{x}")
    assert "AWS_SECRET_ACCESS_KEY is missing in " + str(path) in b.c.got("upload", step=1, state="failed")[0]["error"]


def test_a_manifest_of_another_attempt_is_not_overwritten(bench, weed, tmp_path, x):  # CKPT-15
    b = bench(ONE, "--s3-config", config(weed, tmp_path / "s3.env"))
    weed.put(f"{x}/j1/attempt-1/step-00000001/manifest.json", b"other")
    b.run_to("j1", "exited", upload=f"s3://models/{x}")
    assert "written by another attempt" in b.c.got("upload", step=1, state="failed")[0]["error"]
    assert weed.get(f"{x}/j1/attempt-1/step-00000001/manifest.json") == b"other"


def test_a_server_killed_in_the_middle_of_a_multipart_upload_and_started_again(bench, weed, tmp_path, monkeypatch, x):
    monkeypatch.setenv("TEST_BYTES", str(40 << 20))
    monkeypatch.setenv("LONGHAUL_FAULT", "node.upload.part:2:sleep2500")
    b = bench(ONE, "--s3-config", config(weed, tmp_path / "s3.env"))
    b.c.prepare("j1", upload=f"s3://models/{x}")
    b.c.expect("prepared", job="j1")
    b.c.send("launch", job="j1", attempt=1)
    state = b.dir("j1") / "uploads" / "step-00000001.json"

    def parts():
        try:
            return max((len(p.get("parts", {})) for p in json.loads(state.read_text()).get("parts", {}).values()), default=0)
        except OSError:
            return 0

    wait_until(lambda: parts() == 2, 30, "two parts are there")
    weed.kill()
    time.sleep(3)
    assert not b.c.got("upload", state="failed") and not b.c.got("upload", state="done")
    weed.start()
    b.c.expect("upload", job="j1", state="done", timeout=60)
    verified(weed, f"{x}/j1/attempt-1/step-00000001")
    assert b.c.expect("exited", job="j1")["outcome"] == "ok"
    assert "upload.again" in b.node.log.read_text()


def test_a_daemon_killed_in_the_middle_of_a_multipart_upload_goes_on_where_it_was(bench, weed, tmp_path, monkeypatch, x):
    monkeypatch.setenv("TEST_BYTES", str(40 << 20))
    monkeypatch.setenv("LONGHAUL_FAULT", "node.upload.part:3:kill")
    b = bench(CHECKPOINTS + '[ $rank = 0 ] && checkpoint 1; sleep 6; exit 0', "--s3-config", config(weed, tmp_path / "s3.env"))
    b.c.prepare("j1", upload=f"s3://models/{x}")
    b.c.expect("prepared", job="j1")
    b.c.send("launch", job="j1", attempt=1)
    b.node.process.wait(30)
    before = json.loads((b.dir("j1") / "uploads" / "step-00000001.json").read_text())["parts"]
    (first,) = before.values()
    assert len(first["parts"]) == 3
    monkeypatch.delenv("LONGHAUL_FAULT")
    b.node = Node(b.c.url, "n1", b.state, *b.args, slots=2).start()
    b.c.expect("upload", job="j1", state="done", timeout=30)
    after = json.loads((b.dir("j1") / "uploads" / "step-00000001.json").read_text())["parts"]
    assert list(after.values())[0]["id"] == first["id"], "the same upload, not a new one"
    verified(weed, f"{x}/j1/attempt-1/step-00000001")


def test_single_objects_are_fetched_once_and_again_when_they_change(bench, weed, tmp_path):
    weed.put("data/books.jsonl", b"first")
    b = bench('cat "$(sed -n \'s/.*"\\(\\/.*books.jsonl\\)".*/\\1/p\' job.json)"; exit 0', "--s3-config", config(weed, tmp_path / "s3.env"))
    uri = "s3://models/data/books.jsonl"
    more = {"spec": {"kind": "check", "data": {"train": [uri], "format": "tokens"}}, "inputs": {uri: {"uri": uri, "manifest_sha256": None}}}
    b.run_to("j1", "exited", **more)
    assert b.c.files["j1/1/0.log"] == b"log of 0\nfirst"
    b.run_to("j2", "exited", **more)
    assert len(list((b.state / "cache" / "files").iterdir())) == 1
    weed.put("data/books.jsonl", b"second")
    b.run_to("j3", "exited", **more)
    assert b.c.files["j3/1/0.log"] == b"log of 0\nsecond"
    missing = uri + ".nope"
    b.c.prepare("j4", spec={"kind": "check", "data": {"train": [missing]}}, inputs={missing: {"uri": missing, "manifest_sha256": None}})
    r = b.c.expect("prepare_failed", job="j4")
    assert r["problem"]["pointer"] == "/data/train/0" and "neither an object nor a directory" in r["problem"]["detail"]


PRINT = 'd=$(sed -n \'s/.*"\\(\\/[^"]*\\/cache\\/files\\/[^"]*\\)".*/\\1/p\' job.json); echo "[$d]"; '


def listed_job(member, uri):
    return {"spec": {"kind": "check", **member}, "inputs": {uri: {"uri": uri, "manifest_sha256": None}}}


def test_a_directory_without_a_manifest_is_fetched_whole_and_again_when_it_changes(bench, weed, tmp_path, x):  # NODE-21
    for name, data in {"config.json": b"{}", "sub%20dir/a%26b%3Cc%3E.bin": b"odd name", "model.safetensors": b"x" * 3000}.items():
        weed.put(f"{x}/llama/{name}", data)
    weed.put(f"{x}/llama-other/config.json", b"not this one")
    b = bench(PRINT + '(cd "$d" && find . -type f | LC_ALL=C sort && cat "sub dir/a&b<c>.bin"); exit 0',
              "--s3-config", config(weed, tmp_path / "s3.env"))
    uri = f"s3://models/{x}/llama"
    b.run_to("j1", "exited", **listed_job({"model": {"base": uri}}, uri))
    log = b.c.files["j1/1/0.log"].decode()
    assert log.splitlines()[2:5] == ["./config.json", "./model.safetensors", "./sub dir/a&b<c>.bin"] and log.endswith("odd name")
    b.run_to("j2", "exited", **listed_job({"model": {"base": uri + "/"}}, uri + "/"))
    b.run_to("j3", "exited", **listed_job({"model": {"base": uri}}, uri))
    assert b.c.files["j3/1/0.log"].decode().splitlines()[1] == log.splitlines()[1]  # the same entry
    weed.put(f"{x}/llama/config.json", b"{ }")
    b.run_to("j4", "exited", **listed_job({"model": {"base": uri}}, uri))
    assert b.c.files["j4/1/0.log"].decode().splitlines()[1] != log.splitlines()[1]


def test_a_pattern_stands_for_the_objects_that_match_over_all_pages(bench, weed, tmp_path, x):  # NODE-21
    for i in range(1005):  # a page of a listing has a thousand
        weed.put(f"{x}/data/{i:04}.jsonl", b"%d\n" % i)
    weed.put(f"{x}/data/notes.txt", b"none")
    weed.put(f"{x}/data/below/1.jsonl", b"none")
    b = bench(PRINT + 'cat $d | wc -l; exit 0', "--s3-config", config(weed, tmp_path / "s3.env"))
    uri = f"s3://models/{x}/data/*.jsonl"
    b.run_to("j1", "exited", **listed_job({"data": {"train": [uri], "format": "tokens"}}, uri))
    assert b.c.files["j1/1/0.log"].decode().splitlines()[-1].strip() == "1005"
    none = f"s3://models/{x}/data/*.gz"
    b.c.prepare("j2", **listed_job({"data": {"train": [none]}}, none))
    r = b.c.expect("prepare_failed", job="j2")
    assert r["problem"]["pointer"] == "/data/train/0" and "no object matches" in r["problem"]["detail"]
