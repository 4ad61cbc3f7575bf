"""Damaged copies of a small model, and the jobs that name them; what the tests of bad input share."""
import json
import os
import pathlib
import shutil
import struct

import longhaul
import pytest

GOLDEN = pathlib.Path(os.environ.get("LONGHAUL_GOLDEN", longhaul.ROOT.parent / "shared" / "golden"))
OWN = longhaul.ROOT / "tests" / "golden" / "cases"
PROSE = "Call me Ishmael. Some years ago, never mind how long precisely. "


def case():
    """A directory with a small Llama model of 96 words and its batch of 64 tokens a row."""
    for folder in (GOLDEN / "s2-mha", *sorted(OWN.glob("*"))):
        if (folder / "model" / "config.json").exists() and (folder / "batch.safetensors").exists():
            return folder
    pytest.skip("no small model at hand")


def copy_model(to):
    """A writable copy of the small model at TO/model."""
    shutil.copytree(case() / "model", to / "model", copy_function=shutil.copy)
    for p in (to / "model", *(to / "model").iterdir()):
        p.chmod(0o755 if p.is_dir() else 0o644)
    return to / "model"


def train_job(model, **more):
    job = {"name": "bad", "kind": "train", "precision": "fp32", "model": {"base": f"file://{model}"},
           "context": {"length": 64, "attention": {"type": "s2", "group": 16}},
           "data": {"train": [f"file://{case()}/batch.safetensors"], "format": "tokens", "pack": False},
           "optim": {"lr": 0.01, "warmup_steps": 0, "batch_sequences": 2, "steps": 2}, "resources": {"slots": 1, "threads": 1}}
    job.update(more)
    return job


def text_job(model, *paths, **more):
    return train_job(model, data={"train": [str(p) for p in paths], "format": "text", **more})


def edit_config(model, **members):
    config = json.loads((model / "config.json").read_text())
    config.update(members)
    (model / "config.json").write_text(json.dumps(config))


def weights(model):
    """The model's only weights file."""
    return model / "model.safetensors"


def edit_header(model, edit):
    """Rewrites the header of the weights: edit changes the parsed one, or returns the bytes that shall stand there."""
    data = weights(model).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    text = edit(header)
    text = text if isinstance(text, bytes) else json.dumps(header).encode()
    weights(model).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])


def last_tensor(model):
    """The name of the tensor that lies last."""
    data = weights(model).read_bytes()
    header = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
    return max((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"])


def set_last_weight(model, value):
    """Sets the last element of the last tensor of an fp32 model."""
    data = bytearray(weights(model).read_bytes())
    data[-4:] = struct.pack("<f", value)
    weights(model).write_bytes(data)


def tokenizer(model, words):
    """A byte-level tokenizer of so many words, in place of the model's own."""
    alphabet = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    vocab = {c: i for i, c in enumerate(alphabet[:words])}
    vocab.update({f"<extra{i}>": i for i in range(len(vocab), words)})
    (model / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": [], "normalizer": None, "decoder": {"type": "ByteLevel"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": []}}))
