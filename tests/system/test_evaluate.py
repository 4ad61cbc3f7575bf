"""Passkeys that longhaul counts as retrieved, against the greedy texts of transformers behind the same prompts (JOB-45, 46).

The prompts are made here a second time, from the words of the specification and the tokenizer that transformers has. Positions are those that
the result names for each scaling, so a wrong table of scalings shows as well.
"""
import json
import os
import subprocess

import longhaul
import pytest
import references

pytestmark = [pytest.mark.full, pytest.mark.timeout(1500)]

PASSKEY = {"lengths": [180, 300], "depths": [0.4, 1], "trials": 2, "seed": 3}

# argv: the exported model, the journal's last line, lengths, depths. Prints what is retrieved of each setting.
RETRIEVE = r"""
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
result = json.loads(sys.argv[2])["result"]
lengths, depths = json.loads(sys.argv[3]), json.loads(sys.argv[4])
TASK = ("There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you about the important "
        "information there.")
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

def ids(sentences, depth, number, answered):
    before = int(depth * sentences + 0.5)
    lines = [TASK, " ".join([FILLER] * before), f"The pass key is {number}. Remember it. {number} is the pass key.",
             " ".join([FILLER] * (sentences - before)), "What is the pass key? The pass key is"]
    return tokenizer("\n".join(lines) + f" {number}" * answered).input_ids

def correct(model, length, depth, number):
    sentences = 0
    while len(ids(sentences + 1, depth, number, True)) <= length:
        sentences += 1
    prompt, whole = ids(sentences, depth, number, False), ids(sentences, depth, number, True)
    assert whole[:len(prompt)] == prompt
    answer = whole[len(prompt):]
    given = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64), do_sample=False,
                           max_new_tokens=len(answer), min_new_tokens=len(answer))[0][len(prompt):].tolist()
    return given == answer

for entry in result["ropes"]:
    config = AutoConfig.from_pretrained(sys.argv[1])
    config.rope_parameters = entry["rope_parameters"]
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], config=config, torch_dtype=torch.float32)
    want = [{"length": length, "depth": depth, "trials": len(entry["passkey"]["numbers"]),
             "correct": sum(correct(model, length, depth, number) for number in entry["passkey"]["numbers"])}
            for length in lengths for depth in depths]
    print(entry["rope"], [cell["correct"] for cell in want])
    assert entry["passkey"]["cells"] == want, (entry["rope"], want, entry["passkey"]["cells"])
"""


def run_job(folder, job):
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(job))
    subprocess.run([str(longhaul.BIN / "longhaul-worker"), str(folder / "job.json"), "--out", str(folder)], check=True)
    return (folder / "events" / "rank-0.jsonl").read_text().splitlines()


def test_passkeys_are_those_that_transformers_retrieves_greedily(tmp_path):
    python, model = references.python("torch"), {"base": str(longhaul.real_model())}
    run_job(tmp_path / "export", {"kind": "export", "model": model, "export": {"dtype": "f32"}})
    lines = run_job(tmp_path / "eval", {
        "kind": "eval", "precision": "fp32", "model": model, "context": {"length": 4096},
        "eval": {"passkey": PASSKEY, "ropes": ["shipped", {"type": "linear", "factor": 2}, {"type": "yarn", "factor": 2}]}})
    done = subprocess.run([str(python), "-c", RETRIEVE, str(tmp_path / "export/export"), lines[-1], json.dumps(PASSKEY["lengths"]),
                           json.dumps(PASSKEY["depths"])], capture_output=True, text=True,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in lines]
    found = [event["correct"] for event in events if event["type"] == "passkey"]
    assert len(found) == 3 * 4 and min(found) == 0 and max(found) == PASSKEY["trials"], found
    assert {event.get("rope") for event in events if event["type"] == "passkey"} == {"as shipped", "linear x 2", "yarn x 2"}
