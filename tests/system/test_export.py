"""What longhaul exports, other people's programs read: transformers the merged directory, the gguf package the GGUF file.

transformers must come to the logits that the reference implementation has for base and adapter, from the directory alone: weights,
positions and tied head are then right. The gguf package must find the same weights, quantised as it would do it itself.
"""
import json
import os
import pathlib
import shutil
import subprocess

import longhaul
import pytest
import references

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

GOLDEN = pathlib.Path(os.environ.get("LONGHAUL_GOLDEN", longhaul.ROOT.parent / "shared" / "golden"))
OWN = longhaul.ROOT / "tests" / "golden" / "cases"
CASES = [GOLDEN / name for name in (
    "dense-mha", "s2-mha", "s2-gqa-9-3", "sharded-index", "rslora-alpha", "bf16-weights", "rope-linear-composed", "rope-llama3", "rope-yarn",
    "rope-longrope")] + [OWN / name for name in ("dense-dynamic", "lora-plus-ntk-linear", "dropout")]

# argv: a folder, tied or not. Leaves a random model and a random adapter as transformers and PEFT save them, ids, and the logits that both
# together have with positions stretched by 4.
MAKE = r"""
import sys, torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(7)
folder, tied = sys.argv[1], sys.argv[2] == "tied"
config = LlamaConfig(vocab_size=211, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
                     max_position_embeddings=64, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, initializer_range=0.2)
LlamaForCausalLM(config).save_pretrained(folder + "/model")
config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
base = LlamaForCausalLM.from_pretrained(folder + "/model", config=config, torch_dtype=torch.float32)
lora = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"], task_type="CAUSAL_LM",
                  rank_pattern={"layers.1.mlp.down_proj": 6}, modules_to_save=["embed_tokens", "input_layernorm", "norm",
                  "post_attention_layernorm"], ensure_weight_tying=tied)
model = get_peft_model(base, lora)
with torch.no_grad():
    for name, p in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            p.add_(torch.randn_like(p) * 0.1)
    ids = torch.randint(0, 211, (2, 200))
    logits = model.eval()(ids).logits
model.save_pretrained(folder + "/adapter")
save_file({"input_ids": ids[None].contiguous()}, folder + "/batch.safetensors")
save_file({"eval_logits": logits.contiguous()}, folder + "/expected.safetensors")
"""

# argv: pairs of an exported directory and a case; compares with the case's eval_logits (full attention).
LOGITS = r"""
import json, sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
bad = 0
for export, case in zip(sys.argv[1::2], sys.argv[2::2]):
    model, info = AutoModelForCausalLM.from_pretrained(export, torch_dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    want = load_file(case + "/expected.safetensors")["eval_logits"]
    ids = load_file(case + "/batch.safetensors")["input_ids"][0]
    with torch.no_grad():
        got = model(ids).logits
    known = ~torch.isnan(want)
    error = ((got - want)[known].abs().max() / want[known].abs().max()).item()
    print(case, "max_position_embeddings", model.config.max_position_embeddings, "error %.2g" % error)
    bad += not error < 1e-4
sys.exit(bad > 0)
"""

# argv: FORMAT, a GGUF, the merged directory in fp32 that it must agree with.
TENSORS = r"""
import json, pathlib, struct, sys
import numpy as np
from gguf import GGUFReader, GGMLQuantizationType as Q
from gguf.quants import dequantize, quantize
reader = GGUFReader(sys.argv[1])
folder = pathlib.Path(sys.argv[2])
config = json.loads((folder / "config.json").read_text())
data = (folder / "model.safetensors").read_bytes()
length, = struct.unpack_from("<Q", data)
header = json.loads(data[8:8 + length])
names = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
         "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
found = {t.name: t for t in reader.tensors}
wanted = 0
for name, entry in header.items():
    if name == "__metadata__":
        continue
    parts = name.split(".")
    gguf_name = ("blk.%s." % parts[2] if parts[1] == "layers" else "") + names[parts[-2]] + ".weight"
    begin, end = entry["data_offsets"]
    want = np.frombuffer(data[8 + length + begin:8 + length + end], np.float32).reshape(entry["shape"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(parts[-2])
    if heads:  # as llama.cpp's converter permutes
        want = want.reshape(heads, 2, -1, want.shape[-1]).swapaxes(1, 2).reshape(want.shape)
    tensor = found.pop(gguf_name)
    got = dequantize(tensor.data, tensor.tensor_type)
    assert got.shape == want.shape, (name, got.shape, want.shape)
    assert tensor.tensor_type == (Q.F32 if want.ndim == 1 else Q.F16 if want.shape[-1] % 32 and sys.argv[3] == "Q8_0" else Q[sys.argv[3]]), name
    if tensor.tensor_type == Q.F32:
        same = np.array_equal(got, want)
    else:
        same = np.array_equal(got, dequantize(quantize(want, tensor.tensor_type), tensor.tensor_type))
    assert same, (name, np.abs(got - want).max())
    wanted += 1
assert not [name for name in found if not name.startswith("rope_")], found.keys()
print(wanted, "tensors", reader.fields["general.file_type"].contents())
field = lambda key: reader.fields[key].contents()
assert field("general.architecture") == "llama" and field("llama.context_length") == config["max_position_embeddings"]
assert abs(field("llama.rope.freq_base") / config["rope_theta"] - 1) < 1e-6
if config["rope_parameters"]["rope_type"] in ("linear", "yarn"):
    assert field("llama.rope.scaling.type") == config["rope_parameters"]["rope_type"]
    assert abs(field("llama.rope.scaling.factor") / config["rope_parameters"]["factor"] - 1) < 1e-6
"""


@pytest.fixture(scope="module")
def torch_python():
    return references.python("torch")


@pytest.fixture(scope="module")
def gguf_python():
    return references.python("gguf")


def export(case, out, **members):
    """Base and adapter of a case, with the positions of its job, as an export job writes them."""
    spec = json.loads((case / "case.json").read_text())
    job = {"kind": "export", "model": {key: str(case / path) for key, path in spec["model"].items()}, "export": members,
           "context": {key: spec["context"][key] for key in ("length", "rope") if key in spec["context"]}}
    out.mkdir(parents=True)
    (out / "job.json").write_text(json.dumps(job))
    done = subprocess.run([str(longhaul.BIN / "longhaul-worker"), str(out / "job.json"), "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "export"


def run(python, script, *args):
    done = subprocess.run([str(python), "-c", script, *map(str, args)], capture_output=True, text=True,
                          env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_transformers_comes_to_the_reference_logits_from_the_directory_alone(torch_python, tmp_path):
    cases = [case for case in CASES if case.exists()]
    if not cases:
        pytest.skip(f"no reference cases in {GOLDEN} (LONGHAUL_GOLDEN)")
    pairs = [part for case in cases for part in (export(case, tmp_path / case.name, dtype="f32", shard_bytes=20000), case)]
    print(run(torch_python, LOGITS, *pairs))


@pytest.mark.parametrize("head", ["tied", "untied"])
def test_a_merged_directory_is_what_transformers_and_peft_compute_together(torch_python, tmp_path, head):
    run(torch_python, MAKE, tmp_path, head)
    (tmp_path / "case.json").write_text(json.dumps({"model": {"base": "model", "adapter": "adapter"},
                                                    "context": {"length": 256, "rope": {"type": "linear"}}}))
    print(run(torch_python, LOGITS, export(tmp_path, tmp_path / "out", dtype="f32"), tmp_path))


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
def test_the_gguf_package_finds_the_weights_as_it_would_write_them(gguf_python, tmp_path, dtype):
    for case in [OWN / "full-dense-yarn", OWN / "s2-packed-gqa-tied", GOLDEN / "rope-linear-composed", GOLDEN / "rope-llama3"]:
        if not case.exists():
            continue
        folder = export(case, tmp_path / (case.name + "-hf"), dtype="f32")
        made = export(case, tmp_path / case.name, format="gguf", dtype=dtype)
        print(run(gguf_python, TENSORS, made / "model.gguf", folder, dtype.upper()))


def test_a_chain_of_jobs_trains_exports_and_writes(standalone, tmp_path):
    """job:ID/checkpoint and job:ID/export are where they are needed; the export is uploaded as it was checked."""
    model = tmp_path / "model"
    shutil.copytree(OWN / "s2-packed-gqa-tied" / "model", model)
    letters = {letter: 3 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz\u0120")}
    (model / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None, "decoder": {"type": "ByteLevel"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {"type": "BPE", "vocab": letters, "merges": []}}))
    spec = json.loads((OWN / "s2-packed-gqa-tied" / "case.json").read_text())
    train = {key: spec[key] for key in ("kind", "precision", "context", "adapter", "optim")}
    train["model"] = {"base": str(model)}
    train["data"] = {**spec["data"], "train": [str(OWN / "s2-packed-gqa-tied" / "batch.safetensors")]}
    first = standalone.submit(train)
    second = standalone.submit({"kind": "export", "model": {"base": str(model), "adapter": f"job:{first}/checkpoint"},
                                "export": {"format": "gguf"}, "after": [{"job": first}]})
    third = standalone.submit({"kind": "generate", "model": {"base": f"job:{second}/export"}, "after": [{"job": second}],
                               "generate": {"prompts": ["once upon a time"], "max_tokens": 9}})
    for job in first, second:
        standalone.wait(job, "succeeded", 120)
    result = standalone.job(second)["result"]["export"]
    assert result["rope"]["factor"] == 2 and result["max_position_embeddings"] == 40
    texts = standalone.wait(third, "succeeded", 120)["result"]["texts"]
    assert len(texts) == 1 and texts[0]["prompt_tokens"] == 16


def test_transformers_reads_model_and_tokenizer_of_a_gguf_base(torch_python, tmp_path):
    """Ids of the tokenizer that is written from a GGUF's vocabulary, and the greedy texts that a generate job writes."""
    model = longhaul.real_model()
    (tmp_path / "job.json").write_text(json.dumps({"kind": "export", "model": {"base": str(model)}, "export": {"dtype": "f32"}}))
    subprocess.run([str(longhaul.BIN / "longhaul-worker"), str(tmp_path / "job.json"), "--out", str(tmp_path)], check=True)
    texts = ["Hello world 123, it's\n\n  <|im_start|>user\nhi \u4f60\u597d \U0001f600  <|im_end|>", "def f(x):\n\treturn x**2  # \u00fcber"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    subprocess.run([str(longhaul.BIN / "longhaul-worker"), "--tokenize", str(model), str(tmp_path / "in.jsonl"), str(tmp_path / "ids.jsonl")],
                   check=True)
    script = r"""
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
for line in open(sys.argv[2]):
    line = json.loads(line)
    assert tokenizer(line["text"]).input_ids == line["ids"], line
assert tokenizer.eos_token == "<|im_end|>" and tokenizer.chat_template
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
for line in open(sys.argv[3]):
    line = json.loads(line)
    ids = tokenizer(line["prompt"], return_tensors="pt").input_ids
    new = model.generate(ids, max_new_tokens=20, do_sample=False)[0][ids.shape[1]:]
    text = tokenizer.decode(new, skip_special_tokens=True)
    print(repr(line["text"]), line["ended"])
    assert line["text"] == text, (line, text)
    assert line["prompt_tokens"] == ids.shape[1] and (line["ended"] == "eos") == (new[-1] == tokenizer.eos_token_id)
"""
    generate = {"prompts": ["The capital of France is", "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n", "def add(a, b):"],
                "max_tokens": 20}
    (tmp_path / "generate.json").write_text(json.dumps({"kind": "generate", "precision": "fp32", "model": {"base": str(model)},
                                                        "generate": generate}))
    subprocess.run([str(longhaul.BIN / "longhaul-worker"), str(tmp_path / "generate.json"), "--out", str(tmp_path)], check=True)
    print(run(torch_python, script, tmp_path / "export", tmp_path / "ids.jsonl", tmp_path / "texts.jsonl"))
