"""What longhaul writes, other people's programs read: the adapter of a checkpoint in PEFT, with equal logits."""
import json
import os
import pathlib
import subprocess

import longhaul
import pytest
import references

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

GOLDEN = pathlib.Path(os.environ.get("LONGHAUL_GOLDEN", longhaul.ROOT.parent / "shared" / "golden"))

READER = r"""
import json, sys, warnings
warnings.simplefilter("error")           # PEFT warns of missing and unexpected keys
warnings.filterwarnings("ignore", category=DeprecationWarning)
warnings.filterwarnings("ignore", category=FutureWarning)
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoConfig, LlamaForCausalLM
model_dir, adapter_dir, batch, rope, dump = sys.argv[1:]
config = AutoConfig.from_pretrained(model_dir)
if json.loads(rope):
    config.rope_parameters = json.loads(rope)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    base = LlamaForCausalLM.from_pretrained(model_dir, config=config, torch_dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter_dir)
loaded = load_file(adapter_dir + "/adapter_model.safetensors")
report = set_peft_model_state_dict(model, loaded)
ours = [k for k in report.missing_keys if "lora" in k or "modules_to_save" in k]
print("missing", ours, "unexpected", list(report.unexpected_keys))
assert not ours and not report.unexpected_keys
tokens = load_file(batch)["input_ids"][0]
with torch.no_grad():
    theirs = model(tokens).logits
ours = load_file(dump)["eval_logits"]
difference = float((theirs - ours).abs().max() / theirs.abs().max())
print("difference of the logits", difference)
assert difference < 1e-4
"""


@pytest.fixture(scope="module")
def python():
    return references.python("torch")


@pytest.mark.parametrize("case", ["s2-mha", "s2-gqa-9-3"])
def test_peft_loads_a_checkpoint_with_no_missing_and_no_unexpected_key(python, tmp_path, case):
    folder = GOLDEN / case
    if not folder.exists():
        pytest.skip(f"no golden case at {folder}")
    spec = json.loads((folder / "case.json").read_text())
    rope = spec["rope_parameters"]
    job = {k: v for k, v in spec.items() if k not in ("about", "loss", "rope_parameters", "checks", "tolerances", "micro_batches")}
    job["model"] = {"base": str(folder / "model"), "adapter": str(folder / "adapter")}
    job["data"]["train"] = [str(folder / "batch.safetensors")]
    (tmp_path / "job.json").write_text(json.dumps(job))
    subprocess.run([str(longhaul.BIN / "longhaul-worker"), str(tmp_path / "job.json"), "--out", str(tmp_path / "out")], check=True)
    checkpoint = sorted((tmp_path / "out/checkpoints").glob("step-*"))[-1]
    # Our own logits of the trained adapter: one more run that starts from the checkpoint and updates nothing.
    again = json.loads(json.dumps(job))
    again["model"]["adapter"] = str(checkpoint)
    again["optim"] = {"steps": 1, "batch_sequences": job["optim"]["batch_sequences"]}
    (tmp_path / "again.json").write_text(json.dumps(again))
    subprocess.run([str(longhaul.BIN / "longhaul-worker"), str(tmp_path / "again.json"), "--out", str(tmp_path / "out2"),
                    "--dump", str(tmp_path / "dump")], check=True)
    done = subprocess.run([str(python), "-c", READER, str(folder / "model"), str(checkpoint), str(folder / "batch.safetensors"),
                           json.dumps(rope), str(tmp_path / "dump/results.safetensors")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
