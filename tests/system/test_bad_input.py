"""Bad input: one clear error that names the member, file or flag and the way out, before anything is claimed or written."""
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import time

import longhaul
import pytest
from longhaul import check_job, request, wait_until

pytestmark = pytest.mark.full

GOLDEN = pathlib.Path(os.environ.get("LONGHAUL_GOLDEN", longhaul.ROOT.parent / "shared" / "golden"))
OWN = longhaul.ROOT / "tests" / "golden" / "cases"


def tiny_model():
    for folder in (GOLDEN / "s2-mha", OWN / "s2-mha", *sorted(OWN.glob("*"))):
        if (folder / "model" / "config.json").exists():
            return folder
    pytest.skip("no small model at hand")


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory):
    with longhaul.Coordinator(tmp_path_factory.mktemp("bad") / "state") as c:
        wait_until(lambda: any(n["state"] == "up" for n in c.get("/v1/nodes").json["nodes"]), 20, "the node is up")
        yield c


# ---- the request ---------------------------------------------------------------------------------------------------

BAD_BODIES = [
    ("not JSON", b"{nope", 400, "line 1"),
    ("not UTF-8", b'{"name": "\xff\xfe"}', 400, ""),
    ("duplicate keys", b'{"kind": "check", "kind": "check"}', 400, "kind"),
    ("nested too deep", b"[" * 200 + b"]" * 200, 400, "deep"),
    ("an array of nothing", b"[]", 422, ""),
    ("a number", b"7", 422, ""),
]


@pytest.mark.parametrize("what, body, status, words", BAD_BODIES, ids=[b[0] for b in BAD_BODIES])
def test_a_body_that_is_no_job_is_refused(shared_daemon, what, body, status, words):
    reply = shared_daemon.post("/v1/jobs", body, headers={"Content-Type": "application/json"})
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"].startswith("application/problem+json")
    assert words in reply.body.decode()


BAD_JOBS = [
    ({"kind": "check", "resuorces": {"slots": 1}}, "/resuorces", "unknown_member", "resources"),
    ({"kind": "check", "resources": {"slotss": 1}}, "/resources/slotss", "unknown_member", "slots"),
    ({"kind": "check", "resources": {"slots": "two"}}, "/resources/slots", "wrong_type", ""),
    ({"kind": "check", "resources": {"slots": 0}}, "/resources/slots", "out_of_range", "1"),
    ({"kind": "trian"}, "/kind", "bad_value", "train"),
    ({"kind": "generate", "model": {"base": "file:///m"}}, "/generate/prompts", "missing", "texts to go on with"),
    ({"kind": "export", "model": {"base": "file:///m"}, "export": {"dtype": "q8_0"}}, "/export/dtype", "conflict", "gguf"),
    ({}, "/kind", "missing", ""),
    ({"kind": "train", "model": {"base": "file:///m"}, "context": {"length": 16384, "attention": {"type": "s2", "group": 4097}},
      "data": {"train": ["file:///d"]}, "optim": {"lr": 1e-4, "steps": 1}}, "/context/attention/group", None, "even"),
    ({"kind": "train", "model": {"base": "file:///m"}, "context": {"length": -5}, "data": {"train": ["file:///d"]},
      "optim": {"lr": 1e-4, "steps": 1}}, "/context/length", "out_of_range", ""),
    ({"kind": "train", "model": {"base": "ftp://x/y"}, "context": {"length": 64}, "data": {"train": ["file:///d"]},
      "optim": {"lr": 1e-4, "steps": 1}}, "/model/base", None, "file://"),
]


@pytest.mark.parametrize("job, pointer, code, words", BAD_JOBS, ids=[b[1] for b in BAD_JOBS])
def test_a_bad_member_is_named_with_the_way_out(shared_daemon, job, pointer, code, words):
    reply = shared_daemon.post("/v1/jobs", job)
    assert reply.status == 422, reply.body
    errors = {e["pointer"]: e for e in reply.json["errors"]}
    assert pointer in errors, reply.json
    assert code is None or errors[pointer]["code"] == code
    assert words in errors[pointer]["detail"]


def test_a_body_over_the_limit_is_refused(shared_daemon):
    reply = shared_daemon.post("/v1/jobs", b'{"name": "' + b"x" * (2 << 20) + b'"}')
    assert reply.status == 413


def test_an_unknown_job_is_a_404_that_names_it(shared_daemon):
    for path in ("/v1/jobs/none-such", "/v1/jobs/none-such/events", "/v1/jobs/none-such/logs"):
        reply = shared_daemon.get(path)
        assert reply.status == 404 and "none-such" in reply.json["detail"], (path, reply.body)
    assert shared_daemon.post("/v1/jobs/none-such/cancel").status == 404


def test_a_client_that_drips_its_request_is_cut_and_others_are_served(shared_daemon):
    host, port = shared_daemon.url[len("http://"):].split(":")
    with socket.create_connection((host, int(port))) as s:
        s.settimeout(1)
        began = time.monotonic()
        cut = None
        for byte in b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"a" * 200:
            try:
                s.send(bytes([byte]))
                time.sleep(0.25)
                assert request(shared_daemon.url + "/livez").status == 200
            except OSError:
                cut = time.monotonic() - began
                break
            if time.monotonic() - began > 25:
                break
        assert cut is not None and cut < 20, "the dripping client was never cut"


# ---- the model and the data, found by the preflight ------------------------------------------------------------------

def train_job(folder, model, **more):
    job = {"name": "bad", "kind": "train", "precision": "fp32", "model": {"base": f"file://{model}"},
           "context": {"length": 64, "attention": {"type": "s2", "group": 16}},
           "data": {"train": [f"file://{folder}/batch.safetensors"], "format": "tokens", "pack": False},
           "optim": {"lr": 0.01, "warmup_steps": 0, "batch_sequences": 2, "steps": 2}, "resources": {"slots": 1, "threads": 1}}
    job.update(more)
    return job


def copy_model(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model", copy_function=shutil.copy)
    for p in (tmp_path / "model", *(tmp_path / "model").iterdir()):
        p.chmod(0o755 if p.is_dir() else 0o644)
    return tmp_path / "model"


def no_config(m):
    (m / "config.json").unlink()


def wrong_architecture(m):
    config = json.loads((m / "config.json").read_text())
    config.update(architectures=["GPTNeoXForCausalLM"], model_type="gpt_neox")
    (m / "config.json").write_text(json.dumps(config))


def truncated(m):
    p = m / "model.safetensors"
    p.write_bytes(p.read_bytes()[:-1000])


def hostile(m):
    p = m / "model.safetensors"
    p.write_bytes(struct.pack("<Q", 1 << 62) + p.read_bytes()[8:])


def lies_about_a_shape(m):
    config = json.loads((m / "config.json").read_text())
    config["vocab_size"] += 1
    (m / "config.json").write_text(json.dumps(config))


BAD_MODELS = [(no_config, "config.json"), (wrong_architecture, "GPTNeoX"), (truncated, "model.safetensors"),
              (hostile, "model.safetensors"), (lies_about_a_shape, "embed_tokens")]


@pytest.mark.parametrize("damage, words", BAD_MODELS, ids=[b[0].__name__ for b in BAD_MODELS])
def test_a_bad_model_fails_the_preflight_and_names_the_file(shared_daemon, tmp_path, damage, words):
    folder = tiny_model()
    model = copy_model(folder, tmp_path)
    damage(model)
    job = shared_daemon.wait(shared_daemon.submit(train_job(folder, model)), "failed")
    assert words in job["error"]["detail"], job["error"]
    assert job["error"]["pointer"] == "/model/base"
    assert job["attempts"] == 0


def test_a_hostile_gguf_fails_the_preflight(shared_daemon, tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60) + b"\0" * 64)
    job = shared_daemon.wait(shared_daemon.submit(train_job(tiny_model(), bad)), "failed")
    assert "bad.gguf" in job["error"]["detail"] and job["attempts"] == 0


@pytest.mark.parametrize("make, words", [(lambda p: None, "absent"), (lambda p: p.write_bytes(b""), "empty"),
                                         (lambda p: p.write_bytes(b"\0" * 64), "garbage")], ids=["absent", "empty", "garbage"])
def test_bad_data_fails_the_preflight_and_names_the_file(shared_daemon, tmp_path, make, words):
    folder = tiny_model()
    data = tmp_path / f"{words}.safetensors"
    make(data)
    job = train_job(folder, folder / "model", data={"train": [f"file://{data}"], "format": "tokens", "pack": False})
    ended = shared_daemon.wait(shared_daemon.submit(job), "failed")
    assert data.name in ended["error"]["detail"] and ended["error"]["pointer"].startswith("/data/train")
    assert ended["attempts"] == 0


def test_text_without_a_tokenizer_is_refused(shared_daemon, tmp_path):
    folder = tiny_model()
    text = tmp_path / "text.txt"
    text.write_text("Call me Ishmael. " * 500)
    job = train_job(folder, folder / "model", data={"train": [f"file://{text}"], "format": "text"})
    ended = shared_daemon.wait(shared_daemon.submit(job), "failed")
    assert "tokenizer" in ended["error"]["detail"] and ended["attempts"] == 0


def test_a_tokenizer_that_does_not_match_the_vocabulary_is_refused(shared_daemon, tmp_path):
    folder = tiny_model()
    model = copy_model(folder, tmp_path)
    alphabet = [chr(c) for c in range(33, 127)]
    vocab = {c: i for i, c in enumerate(alphabet)}
    vocab.update({f"<extra{i}>": len(alphabet) + i for i in range(2000)})
    (model / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": [], "normalizer": None, "decoder": {"type": "ByteLevel"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": []}}))
    text = tmp_path / "text.txt"
    text.write_text("Call me Ishmael. " * 500)
    job = train_job(folder, model, data={"train": [f"file://{text}"], "format": "text"})
    ended = shared_daemon.wait(shared_daemon.submit(job), "failed")
    assert "vocab" in ended["error"]["detail"] and ended["attempts"] == 0


def test_a_plan_that_does_not_fit_shows_its_table(shared_daemon):
    folder = tiny_model()
    job = train_job(folder, folder / "model", limits={"memory_bytes": 1 << 20})
    ended = shared_daemon.wait(shared_daemon.submit(job), "failed")
    assert "weights" in ended["error"]["detail"] and ended["attempts"] == 0, ended["error"]


def test_a_loss_that_is_not_a_number_stops_the_job_and_names_step_and_tensor(shared_daemon, tmp_path):
    folder = tiny_model()
    model = copy_model(folder, tmp_path)
    p = model / "model.safetensors"
    data = bytearray(p.read_bytes())
    data[-4:] = struct.pack("<f", float("nan"))  # the last element of the last tensor
    p.write_bytes(data)
    ended = shared_daemon.wait(shared_daemon.submit(train_job(folder, model, retry={"app": 0})), "failed")
    detail = ended["error"]["detail"].lower()
    assert "step" in detail and ("nan" in detail or "finite" in detail), ended["error"]


# ---- the command line of the daemon ----------------------------------------------------------------------------------

def start_and_fail(*args, timeout=20):
    done = subprocess.run([str(longhaul.BIN / "longhauld"), *[str(a) for a in args]], capture_output=True, text=True, timeout=timeout)
    assert done.returncode != 0, "longhauld started"
    return done


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        done = start_and_fail("--standalone", "--state", tmp_path / "s", "--listen", f"127.0.0.1:{port}")
    assert str(port) in done.stderr and "use" in done.stderr


def test_a_state_directory_that_another_one_holds_is_refused_with_its_pid(tmp_path):
    with longhaul.Coordinator(tmp_path / "state", standalone=False) as c:
        done = start_and_fail("--state", c.state, "--listen", "127.0.0.1:0")
        assert done.returncode == 75 and str(c.process.pid) in done.stderr
        assert c.get("/livez").status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_read_only_state_directory_is_refused(tmp_path):
    state = tmp_path / "ro"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(state)], check=True)
    try:
        done = start_and_fail("--state", state, "--listen", "127.0.0.1:0")
    finally:
        subprocess.run(["umount", str(state)], check=True)
    assert str(state) in done.stderr and "ead-only" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_full_state_directory_is_refused(tmp_path):
    state = tmp_path / "full"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(state)], check=True)
    try:
        (state / "filler").write_bytes(b"x" * 60 * 1024)
        done = start_and_fail("--state", state, "--listen", "127.0.0.1:0")
    finally:
        subprocess.run(["umount", str(state)], check=True)
    assert str(state) in done.stderr and ("space" in done.stderr or "free" in done.stderr)


def test_an_address_beyond_loopback_without_tls_needs_insecure(tmp_path):
    done = start_and_fail("--state", tmp_path / "s", "--listen", "0.0.0.0:0")
    assert "--insecure" in done.stderr


def test_a_configuration_with_an_unknown_key_names_line_and_key(tmp_path):
    config = tmp_path / "longhauld.yaml"
    config.write_text("listen: 127.0.0.1:0\nlisten_adress: x\n")
    done = start_and_fail("--config", config, "--state", tmp_path / "s")
    assert done.returncode == 78 and "listen_adress" in done.stderr


def test_an_unknown_flag_is_a_usage_error():
    done = start_and_fail("--standalnoe")
    assert done.returncode == 64 and "standalnoe" in done.stderr
