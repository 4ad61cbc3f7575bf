"""Damaged copies of a small model, and the jobs that name them; what the tests of bad input share."""
import array
import atexit
import functools
import json
import math
import pathlib
import random
import shutil
import struct
import tempfile

PROSE = "Call me Ishmael. Some years ago, never mind how long precisely. "

VOCAB, HIDDEN, HEADS, FF, LAYERS, TOKENS = 96, 64, 4, 96, 2, 64
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": VOCAB, "hidden_size": HIDDEN,
          "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": HIDDEN // HEADS, "intermediate_size": FF,
          "num_hidden_layers": LAYERS, "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
          "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "bos_token_id": 1, "eos_token_id": 2}


def shapes():
    """Names and shapes of the model's tensors."""
    layer = {"input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,), "mlp.gate_proj": (FF, HIDDEN), "mlp.up_proj": (FF, HIDDEN),
             "mlp.down_proj": (HIDDEN, FF), **{f"self_attn.{x}_proj": (HIDDEN, HIDDEN) for x in "qkvo"}}
    named = {"lm_head": (VOCAB, HIDDEN), "model.embed_tokens": (VOCAB, HIDDEN), "model.norm": (HIDDEN,)}
    named.update({f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in layer.items()})
    return {f"{name}.weight": shape for name, shape in sorted(named.items())}


def write_safetensors(path, tensors):
    """tensors: {name: (dtype, shape, bytes)}."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


@functools.lru_cache
def case():
    """A directory with a small random Llama model of 96 words and its batch of 8 steps, 2 rows of 64 tokens: the tests know its shapes."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="longhaul-damage-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rng = random.Random(1)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(folder / "model" / "model.safetensors", {
        name: ("F32", shape, array.array("f", (rng.gauss(1 if len(shape) == 1 else 0, 0.2) for _ in range(math.prod(shape)))).tobytes())
        for name, shape in shapes().items()})
    tokens = ("I64", (8, 2, TOKENS), array.array("q", (rng.randrange(VOCAB) for _ in range(8 * 2 * TOKENS))).tobytes())
    write_safetensors(folder / "batch.safetensors", {"input_ids": tokens, "labels": tokens})
    return folder


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
