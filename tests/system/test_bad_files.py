"""Bad model and data files, as a node's preflight meets them: `longhaul-worker --plan` and `--prepare`.

Each gets one error with the member's pointer that names the file and what is wrong, from a process that ends by itself,
quickly, within a small address space, whatever sizes the file claims.
"""
import gzip
import json
import os
import resource
import struct
import subprocess

import damage
import longhaul
import pytest
from damage import edit_config, edit_header, text_job, train_job, weights

pytestmark = [pytest.mark.full, pytest.mark.timeout(60)]

ADDRESS_SPACE = 4 << 30


def worker(job, tmp_path, *flags):
    (tmp_path / "job.json").write_text(json.dumps(job))
    return subprocess.run([str(longhaul.BIN / "longhaul-worker"), str(tmp_path / "job.json"), *[str(f) for f in flags]],
                          capture_output=True, text=True, timeout=20,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE)))


def plan(job, tmp_path):
    done = worker(job, tmp_path, "--plan")
    assert done.returncode == 0, (done.returncode, done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def refused(job, tmp_path, pointer, *words, code="bad_input"):
    """The preflight refuses the job with this code and pointer, and its text holds the words."""
    answer = plan(job, tmp_path)
    assert answer["ok"] is False
    assert (answer["code"], answer["class"]) == (code, "app"), answer
    assert answer["pointer"] == pointer, answer
    for word in words:
        assert word in answer["detail"], answer
    return answer


def test_the_small_model_as_it_is_passes(tmp_path):
    """Else every refusal below would prove nothing."""
    answer = plan(train_job(damage.copy_model(tmp_path)), tmp_path)
    assert answer["ok"] is True and answer["bytes_per_rank"] > 0


# ---- a model directory ------------------------------------------------------------------------------------------------

def replace_by_directory(path):
    path.unlink()
    path.mkdir()


def dangle(path):
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def first_tensor(member, value):
    def edit(header):
        header[min(k for k in header if k != "__metadata__")][member] = value
    return lambda m: edit_header(m, edit)


def same_offsets_twice(header):
    a, b, *_ = [k for k in header if k != "__metadata__"]
    header[b]["data_offsets"] = header[a]["data_offsets"]


def index_naming(name):
    def make(m):
        weights(m).unlink()
        (m / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    return make


CONFIG, WEIGHTS = "config.json", "model.safetensors"
BAD_MODELS = {
    "no config": (lambda m: (m / CONFIG).unlink(), "config.json", "Hugging Face"),
    "config is a directory": (lambda m: replace_by_directory(m / CONFIG), "config.json", "regular file"),
    "config is a dangling link": (lambda m: dangle(m / CONFIG), "config.json"),
    "config is empty": (lambda m: (m / CONFIG).write_text(""), "config.json", "JSON"),
    "config is cut short": (lambda m: (m / CONFIG).write_text("{"), "config.json", "line 1"),
    "config is a list": (lambda m: (m / CONFIG).write_text("[]"), "config.json", "object"),
    "another architecture": (lambda m: edit_config(m, architectures=["GPTNeoXForCausalLM"], model_type="gpt_neox"),
                             "config.json", "GPTNeoXForCausalLM", "LlamaForCausalLM"),
    "another activation": (lambda m: edit_config(m, hidden_act="gelu"), "hidden_act", "silu"),
    "biases": (lambda m: edit_config(m, attention_bias=True), "attention_bias"),
    "no hidden size": (lambda m: edit_config(m, hidden_size=0), "hidden_size", "from 1 to"),
    "an endless hidden size": (lambda m: edit_config(m, hidden_size=1 << 62), "hidden_size", "from 1 to"),
    "a hidden size in words": (lambda m: edit_config(m, hidden_size="64"), "hidden_size", "whole number"),
    "two thousand million layers": (lambda m: edit_config(m, num_hidden_layers=2 * 10**9), "num_hidden_layers", "from 1 to"),
    "heads that do not divide": (lambda m: edit_config(m, num_key_value_heads=3), "num_attention_heads", "multiple"),
    "a word more than the embedding": (lambda m: edit_config(m, vocab_size=97), "embed_tokens", "96", "97"),
    "no weights": (lambda m: weights(m).unlink(), WEIGHTS, "convert"),
    "weights are a directory": (lambda m: replace_by_directory(weights(m)), WEIGHTS, "regular file"),
    "weights are a dangling link": (lambda m: dangle(weights(m)), WEIGHTS),
    "weights are empty": (lambda m: weights(m).write_bytes(b""), WEIGHTS, "0 bytes"),
    "weights are cut short": (lambda m: weights(m).write_bytes(weights(m).read_bytes()[:-1000]), WEIGHTS, "cut short"),
    "a header cut short": (lambda m: weights(m).write_bytes(weights(m).read_bytes()[:100]), WEIGHTS, "cut short"),
    "weights and something more": (lambda m: weights(m).write_bytes(weights(m).read_bytes() + b"x" * 64), WEIGHTS, "64 bytes"),
    "a header of 4 EiB": (lambda m: weights(m).write_bytes(struct.pack("<Q", 1 << 62) + weights(m).read_bytes()[8:]),
                          WEIGHTS, "header"),
    "noise": (lambda m: weights(m).write_bytes(bytes(i * 151 % 251 for i in range(5000))), WEIGHTS, "no safetensors file"),
    "a header nested deep": (lambda m: edit_header(m, lambda h: b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"), WEIGHTS, "deep"),
    "a tensor twice": (lambda m: edit_header(m, lambda h: json.dumps(h).encode()[:-1] + b', "model.norm.weight": {}}'),
                       WEIGHTS, "duplicate", "model.norm.weight"),
    "tensors that overlap": (lambda m: edit_header(m, same_offsets_twice), WEIGHTS, "overlaps"),
    "a tensor beyond the end": (first_tensor("data_offsets", [1 << 40, (1 << 40) + 256]), WEIGHTS, "cut short or damaged"),
    "offsets backwards": (first_tensor("data_offsets", [256, 0]), WEIGHTS),
    "a dimension below zero": (first_tensor("shape", [-1, 64]), WEIGHTS, "dimension"),
    "a shape that overflows": (first_tensor("shape", [1 << 40, 1 << 40]), WEIGHTS, "overflow"),
    "an unknown dtype": (first_tensor("dtype", "F7"), WEIGHTS, "F7", "convert"),
    "a tensor is missing": (lambda m: edit_header(m, lambda h: h.update(nope=h.pop("model.norm.weight"))), "model.norm.weight"),
    "another shape": (lambda m: edit_header(m, lambda h: h["model.norm.weight"].update(shape=[2, 32])), "model.norm.weight", "2 x 32"),
    "an index that leaves the directory": (index_naming("../../../../etc/passwd"), "index.json", "../../../../etc/passwd"),
    "an index whose shard is missing": (index_naming("model-00001-of-00002.safetensors"), "model-00001-of-00002.safetensors"),
}


@pytest.mark.parametrize("what", BAD_MODELS)
def test_a_bad_model_directory_is_refused_and_the_file_named(tmp_path, what):
    spoil, *words = BAD_MODELS[what]
    model = damage.copy_model(tmp_path)
    spoil(model)
    refused(train_job(model), tmp_path, "/model/base", str(model), *words)


def test_what_is_no_model_at_all_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    dangling = tmp_path / "dangling"
    dangling.symlink_to("/nowhere")
    for path, word in ((tmp_path / "absent", "no model at"), (tmp_path / "empty", "config.json"), (dangling, "no model at"),
                       (tmp_path / "notes.txt", ".gguf")):
        refused(train_job(path), tmp_path, "/model/base", str(path), word)


# ---- a .gguf file -----------------------------------------------------------------------------------------------------

def gguf_text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def gguf(*keys, tensors=0, version=3, magic=b"GGUF", n_keys=None):
    """A GGUF file of string keys and no tensor data."""
    head = magic + struct.pack("<IQQ", version, tensors, len(keys) if n_keys is None else n_keys)
    return head + b"".join(gguf_text(k) + struct.pack("<I", 8) + gguf_text(v) for k, v in keys)


BAD_GGUF = {
    "empty": (b"", "not a GGUF file"),
    "another magic": (gguf(magic=b"GGML"), "not a GGUF file"),
    "version 99": (gguf(version=99), "version 99"),
    "more keys than bytes": (gguf(n_keys=1 << 60) + b"\0" * 64, "keys"),
    "more tensors than bytes": (gguf(("general.architecture", "llama"), tensors=1 << 60) + b"\0" * 64, "tensors"),
    "a key of 2^63 bytes": (gguf(n_keys=1) + struct.pack("<Q", 1 << 63) + b"\0" * 64, "key"),
    "cut in a key": (gguf(("general.architecture", "llama"))[:-3], "cut short"),
    "another architecture": (gguf(("general.architecture", "gpt2")), "gpt2", "llama"),
    "no architecture": (gguf(("general.name", "x")), "architecture"),
    "no sizes": (gguf(("general.architecture", "llama")), "llama."),
}


@pytest.mark.parametrize("what", BAD_GGUF)
def test_a_bad_gguf_file_is_refused_and_named(tmp_path, what):
    data, *words = BAD_GGUF[what]
    (tmp_path / "bad.gguf").write_bytes(data)
    refused(train_job(tmp_path / "bad.gguf"), tmp_path, "/model/base", str(tmp_path / "bad.gguf"), *words)


@pytest.mark.skipif(not longhaul.GGUF.exists(), reason="no model in the cache (deploy/quickstart fetches one)")
def test_a_real_gguf_file_cut_anywhere_is_refused(tmp_path):
    bad = tmp_path / "cut.gguf"
    size = longhaul.GGUF.stat().st_size
    for keep in (20, 5000, 700_000, 3_000_000, size - 1):
        with open(longhaul.GGUF, "rb") as f:
            bad.write_bytes(f.read(keep))
        refused(train_job(bad), tmp_path, "/model/base", str(bad))


# ---- the tokenizer and the vocabulary ---------------------------------------------------------------------------------

def test_text_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(damage.PROSE)
    model = damage.copy_model(tmp_path)
    refused(text_job(model, tmp_path / "a.txt"), tmp_path, "/model/base", "tokenizer.json", str(model))


def test_a_tokenizer_with_more_words_than_the_model_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(damage.PROSE)
    model = damage.copy_model(tmp_path)
    damage.tokenizer(model, 2094)
    refused(text_job(model, tmp_path / "a.txt"), tmp_path, "/model/base", "2094", "96", "tokenizer", "vocabulary")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {"type": "Unigram"}}', '{"model": {"type": "BPE", "vocab": 7}}'])
def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path, text):
    (tmp_path / "a.txt").write_text(damage.PROSE)
    model = damage.copy_model(tmp_path)
    (model / "tokenizer.json").write_text(text)
    refused(text_job(model, tmp_path / "a.txt"), tmp_path, "/model/base", "tokenizer.json")


def tokens(path, **tensors):
    """A safetensors file of I64 tensors of one step: name to list of rows."""
    header, data = {}, b""
    for name, rows in tensors.items():
        body = struct.pack(f"<{sum(map(len, rows))}q", *[v for row in rows for v in row])
        header[name] = {"dtype": "I64", "shape": [1, len(rows), len(rows[0])], "data_offsets": [len(data), len(data) + len(body)]}
        data += body
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


ROW = [1] * 64
BAD_TOKENS = {
    "an id beyond the vocabulary": ({"input_ids": [ROW, [96] + ROW[1:]], "labels": [ROW, ROW]}, "input_ids", "96", "0 to 95"),
    "an id below zero": ({"input_ids": [ROW, [-1] + ROW[1:]], "labels": [ROW, ROW]}, "input_ids", "-1", "0 to 95"),
    "a label beyond the vocabulary": ({"input_ids": [ROW, ROW], "labels": [ROW, [1 << 40] + ROW[1:]]}, "labels", "0 to 95"),
    "labels of another shape": ({"input_ids": [ROW, ROW], "labels": [ROW]}, "labels", "64"),
    "no input_ids": ({"ids": [ROW, ROW]}, "input_ids"),
    "rows longer than the context": ({"input_ids": [ROW * 2, ROW * 2], "labels": [ROW * 2, ROW * 2]}, "128", "context.length is 64"),
}


@pytest.mark.parametrize("what", BAD_TOKENS)
def test_tokens_that_do_not_fit_model_and_job_are_refused(tmp_path, what):
    tensors, *words = BAD_TOKENS[what]
    path = tokens(tmp_path / "tokens.safetensors", **tensors)
    job = train_job(damage.copy_model(tmp_path), data={"train": [str(path)], "format": "tokens", "pack": False})
    refused(job, tmp_path, "/data/train", str(path), *words)


# ---- data -------------------------------------------------------------------------------------------------------------

def prepare(job, tmp_path):
    """The error of --prepare, or None."""
    done = worker(job, tmp_path, "--prepare", "--events", tmp_path, "--cache", tmp_path / "cache")
    events = [json.loads(line) for line in (tmp_path / "rank-0.jsonl").read_text().splitlines()]
    errors = [e for e in events if e["type"] == "error"]
    assert (done.returncode == 0) == (not errors), done.stderr
    return {**errors[0], "exit code": done.returncode} if errors else None


@pytest.fixture
def model(tmp_path):
    """The small model with a vocabulary that takes every byte."""
    return longhaul.real_model()


def make(path, content):
    content(path) if callable(content) else path.write_bytes(content)
    return path


SAFE = "a.safetensors"
UNREADABLE = {
    "absent": ("a.txt", lambda p: None), "a directory": ("a.txt", lambda p: p.mkdir()),
    "a dangling link": ("a.txt", lambda p: p.symlink_to("/nowhere")), "empty": ("a.txt", b""),
    "a pipe": ("a.txt", lambda p: os.mkfifo(p)),
    "absent tokens": (SAFE, lambda p: None), "tokens are a directory": (SAFE, lambda p: p.mkdir()),
    "empty tokens": (SAFE, b""), "tokens are noise": (SAFE, b"\0" * 64),
    "tokens are text": (SAFE, damage.PROSE.encode()),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_unreadable_or_empty_data_is_refused_and_named(tmp_path, what):
    name, content = UNREADABLE[what]
    path = make(tmp_path / name, content)
    model = damage.copy_model(tmp_path)
    damage.tokenizer(model, 96)
    job = text_job(model, path) if name == "a.txt" else train_job(model, data={"train": [str(path)], "format": "tokens", "pack": False})
    answer = plan(job, tmp_path)
    assert answer["ok"] is False and answer["code"] == "bad_input" and answer["class"] == "app", answer
    assert answer["pointer"].startswith("/data/train") and str(path) in answer["detail"], answer


def test_names_that_match_nothing_are_refused(tmp_path, model):
    refused(text_job(model, tmp_path / "*.txt"), tmp_path, "/data/train/0", str(tmp_path / "*.txt"), "no file matches")


LINE = json.dumps({"text": damage.PROSE * 20}).encode() + b"\n"
BAD_TEXTS = {
    "nothing but blanks": ("a.txt", b" \n\n ", "window", "64"),
    "a word": ("a.txt", b"hi", "window", "64"),
    "Latin-1": ("a.txt", b"caf\xe9 " * 500, "a.txt", "UTF-8", "byte 3"),
    "a line that is no JSON": ("a.jsonl", LINE + b"{nope\n", "a.jsonl", "line 2", "JSON"),
    "a line without the field": ("a.jsonl", LINE + b'{"body": "x"}\n', "a.jsonl", "line 2", "'text'", "data.field"),
    "a field that is no text": ("a.jsonl", b'{"text": 7}\n', "a.jsonl", "line 1", "'text'"),
    "gzip cut short": ("a.txt.gz", gzip.compress(damage.PROSE.encode() * 99)[:-20], "a.txt.gz", "cut short"),
    "gzip that is none": ("a.txt.gz", damage.PROSE.encode(), "a.txt.gz", "damaged"),
    "zstd that is none": ("a.txt.zst", damage.PROSE.encode(), "a.txt.zst", "damaged"),
}


@pytest.mark.parametrize("what", BAD_TEXTS)
def test_bad_text_is_refused_before_a_slot_is_held(tmp_path, model, what):
    name, content, *words = BAD_TEXTS[what]
    error = prepare(text_job(model, make(tmp_path / name, content)), tmp_path)
    assert error and (error["code"], error["pointer"], error["exit code"]) == ("bad_input", "/data/train", 65), error
    for word in words:
        assert word in error["text"], error


def test_good_text_and_prepared_shards_are_taken(tmp_path, model):
    """What the refusals above are measured against; shards of an earlier job stand for their texts."""
    path = make(tmp_path / "a.txt", damage.PROSE.encode() * 50)
    assert prepare(text_job(model, path), tmp_path) is None
    shards, = (tmp_path / "cache" / "shards").iterdir()
    assert plan(text_job(model, shards), tmp_path)["ok"] is True
    assert prepare(text_job(model, shards), tmp_path) is None


def test_held_out_text_shorter_than_a_window_is_refused(tmp_path, model):
    path = make(tmp_path / "short.txt", b"hi")
    job = {"kind": "eval", "model": {"base": str(model)}, "context": {"length": 64}, "eval": {"perplexity": [str(path)]}}
    error = prepare(job, tmp_path)
    assert error and error["pointer"] == "/eval/perplexity" and "64" in error["text"], error


# ---- memory -----------------------------------------------------------------------------------------------------------

PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "workspace", "host")


def test_a_plan_above_the_jobs_limit_shows_its_table(tmp_path):
    job = train_job(damage.copy_model(tmp_path), limits={"memory_bytes": 400_000})
    refused(job, tmp_path, "/limits/memory_bytes", *PARTS, "391 KiB", "context.length", code="not_enough_memory")


def test_a_plan_above_the_machines_memory_shows_its_table(tmp_path):
    longest = train_job(damage.copy_model(tmp_path), context={"length": 1 << 24, "attention": {"type": "s2", "group": 16}},
                        optim={"lr": 0.01, "batch_sequences": 64, "steps": 1}, resources={"slots": 1, "micro_batches": 64})
    refused(longest, tmp_path, "/context/length", *PARTS, "GiB", "context.length", code="not_enough_memory")


def test_more_tokens_than_can_be_counted_are_refused(tmp_path):
    job = train_job(damage.copy_model(tmp_path), context={"length": 1 << 24, "attention": {"type": "s2", "group": 16}},
                    optim={"lr": 0.01, "batch_sequences": 65536, "steps": 1}, resources={"slots": 1, "micro_batches": 65536})
    refused(job, tmp_path, "/resources/micro_batches", "micro-batch", "context.length", code="bad_job")
