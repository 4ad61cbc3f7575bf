"""llama.cpp reads the GGUF files that longhaul exports: the same perplexity within 0.5 %, positions stretched or not."""
import json
import math
import subprocess

import longhaul
import pytest
import references

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

LENGTH = 512
TEXT_CHARACTERS = 30000  # some fifteen windows

# argv: a GGUF, ids as longhaul-worker has them, tokens of a window. Prints the mean loss of a token and the number of windows.
LOSS = r"""
import json, sys
import numpy as np
from llama_cpp import Llama
length = int(sys.argv[3])
ids = json.loads(open(sys.argv[2]).readline())["ids"]
llm = Llama(model_path=sys.argv[1], n_ctx=length, n_batch=length, logits_all=True, verbose=False)
windows, loss = len(ids) // length, []
for w in range(windows):
    window = ids[w * length:(w + 1) * length]
    llm.reset()
    llm.eval(window)
    logits = np.asarray(llm.scores[:length - 1], dtype=np.float64)
    top = logits.max(axis=1)
    loss += list(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[np.arange(length - 1), window[1:]])
print(sum(loss) / len(loss), windows)
"""


def worker(out, job, *args):
    out.mkdir(parents=True, exist_ok=True)
    (out / "job.json").write_text(json.dumps(job))
    done = subprocess.run([str(longhaul.BIN / "longhaul-worker"), str(out / "job.json"), "--out", str(out), *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def result(out):
    lines = [json.loads(line) for line in (out / "events" / "rank-0.jsonl").read_text().splitlines()]
    return next(line for line in reversed(lines) if line["type"] == "done")


@pytest.fixture(scope="module")
def python():
    return references.python("llama-cpp")


@pytest.fixture(scope="module")
def model():
    return longhaul.real_model()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """One document of the project's own prose."""
    path = tmp_path_factory.mktemp("text") / "heldout.txt"
    path.write_text("".join((longhaul.ROOT / name).read_text() for name in ("ARCHITECTURE.md", "README.md", "proto/spec/job-spec.md"))[:TEXT_CHARACTERS])
    return path


@pytest.mark.parametrize("dtype,rope", [("f32", None), ("f16", {"type": "linear", "factor": 2}), ("bf16", {"type": "yarn", "factor": 4}),
                                        ("q8_0", None)])
def test_llama_cpp_has_the_perplexity_that_longhaul_has(python, model, text, tmp_path, dtype, rope):
    context = {"length": LENGTH, **({"rope": rope} if rope else {})}
    worker(tmp_path / "export", {"kind": "export", "model": {"base": str(model)}, "context": context,
                                 "export": {"format": "gguf", "dtype": dtype}})
    # Q8_0 is another model than the base: both programs take the file. Otherwise longhaul takes the base.
    same = {"model": {"base": str(tmp_path / "export/export")}, "context": {"length": LENGTH}}
    worker(tmp_path / "eval", {"kind": "eval", "precision": "fp32", "eval": {"perplexity": [str(text)]},
                               **(same if dtype == "q8_0" else {"model": {"base": str(model)}, "context": context})})
    ours = result(tmp_path / "eval")["result"]["eval"]
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": text.read_text()}) + "\n")
    subprocess.run([str(longhaul.BIN / "longhaul-worker"), "--tokenize", str(model), str(tmp_path / "in.jsonl"), str(tmp_path / "ids.jsonl")],
                   check=True)
    done = subprocess.run([str(python), "-c", LOSS, str(tmp_path / "export/export/model.gguf"), str(tmp_path / "ids.jsonl"), str(LENGTH)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    loss, windows = done.stdout.split()
    perplexity = math.exp(float(loss))
    print(f"longhaul {ours['lengths'][0]['perplexity']:.4f}, llama.cpp {perplexity:.4f}")
    assert ours["windows"] == int(windows) >= 3
    assert abs(perplexity / ours["lengths"][0]["perplexity"] - 1) < 0.005
