#!/usr/bin/env python3
"""longhaul-worker --profile: the trace, the table, and that they tell of the same work.

The model is made here: large enough that its ops take longer than writing them down.
"""
import json
import math
import random
import shutil
import struct
import tempfile
import unittest
from array import array
from pathlib import Path

from test_worker import NO_MPI, WorkerTest, check_job

LAYERS, C, HEADS, KV, D, FF, V, T = 2, 128, 4, 2, 32, 384, 512, 512
STEPS, ROWS = 4, 2
UNIT_US = 0.002  # times are written with three places


def write_safetensors(path, tensors):
    """tensors: name -> (dtype, shape, bytes)."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))


def write_model(model):
    noise = random.Random(5)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": C, "intermediate_size": FF,
              "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV, "head_dim": D,
              "vocab_size": V, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": T,
              "tie_word_embeddings": True, "hidden_act": "silu", "torch_dtype": "float32"}
    shapes = {"model.embed_tokens.weight": [V, C], "model.norm.weight": [C]}
    for i in range(LAYERS):
        for name, shape in {"self_attn.q_proj": [HEADS * D, C], "self_attn.k_proj": [KV * D, C],
                            "self_attn.v_proj": [KV * D, C], "self_attn.o_proj": [C, HEADS * D],
                            "mlp.gate_proj": [FF, C], "mlp.up_proj": [FF, C], "mlp.down_proj": [C, FF],
                            "input_layernorm": [C], "post_attention_layernorm": [C]}.items():
            shapes[f"model.layers.{i}.{name}.weight"] = shape
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    write_safetensors(model / "model.safetensors", {
        name: ("F32", shape, array("f", (noise.uniform(-0.1, 0.1) for _ in range(math.prod(shape)))).tobytes())
        for name, shape in shapes.items()})
    ids = array("q", (noise.randrange(V) for _ in range(STEPS * ROWS * T))).tobytes()
    write_safetensors(model / "tokens.safetensors", {name: ("I64", [STEPS, ROWS, T], ids) for name in ("input_ids", "labels")})


class Profile(WorkerTest):
    @classmethod
    def setUpClass(cls):
        cls.shared = Path(tempfile.mkdtemp(prefix="test-profile-"))
        cls.addClassCleanup(shutil.rmtree, cls.shared)
        write_model(cls.shared / "model")

    def job(self, **more):
        return self.write({
            "kind": "train", "precision": "fp32", "model": {"base": str(self.shared / "model")},
            "context": {"length": T, "attention": {"type": "s2", "group": 128}, "rope": {"skip_check": True}},
            "data": {"train": [str(self.shared / "model" / "tokens.safetensors")], "format": "tokens"},
            "optim": {"lr": 1e-4, "steps": STEPS, "batch_sequences": ROWS}, "resources": {"threads": 1}, **more})

    def profile(self, *args, **more):
        done = self.run_worker(self.job(), "--out", self.out, "--profile", self.dir / "trace.json", *args, **more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout, json.loads((self.dir / "trace.json").read_text())

    def test_the_profile_of_a_run_tells_the_same_in_trace_and_table_and_what_the_model_does(self):
        text, trace = self.profile()
        self.calls_and_work_are_those_of_the_model(trace)
        self.ops_make_up_the_step_and_phases_nest(trace)
        spans = [e for e in trace["traceEvents"] if e.get("cat") == "phase"]
        steps = sorted((e for e in spans if e["name"] == "step"), key=lambda e: e["ts"])
        self.assertEqual(len(steps), STEPS)
        self.assertTrue(trace["machine"]["first_left_out"])
        ops = [e for e in trace["traceEvents"] if e.get("cat") == "op"]
        counted = [e for e in ops if any(s["ts"] <= e["ts"] <= s["ts"] + s["dur"] for s in steps[1:])]
        calls, gflop = {}, {}
        for e in counted:
            calls[e["name"]] = calls.get(e["name"], 0) + 1
            gflop[e["name"]] = gflop.get(e["name"], 0) + e["args"]["gflop"]
        table = {}
        for row in trace["ops"]:
            n, flop = table.get(row["op"], (0, 0))
            table[row["op"]] = (n + row["calls"], flop + row["flop"])
        self.assertEqual({op: n for op, (n, _) in table.items()}, calls)
        for op, (_, flop) in table.items():
            self.assertAlmostEqual(flop * 1e-9, gflop[op], delta=1e-3 * gflop[op] + 1e-9)
            self.assertRegex(text, rf"(?m)^{op} +{calls[op]} ")

    def calls_and_work_are_those_of_the_model(self, trace):
        rows = {}
        for row in trace["ops"]:
            rows.setdefault(row["op"], []).append(row)
        passes = (STEPS - 1) * ROWS  # each row is a micro-batch of its own
        self.assertEqual(sum(r["calls"] for r in rows["attention_bwd"]), LAYERS * passes)
        self.assertEqual(sum(r["calls"] for r in rows["embed_fwd"]), passes)
        pairs = 2 * (4 * 128 * 129 / 2) + 2 * (2 * 64 * 65 / 2 + 3 * 128 * 129 / 2)  # plain heads, shifted heads
        self.assertEqual(sum(r["flop"] for r in rows["attention_bwd"]), 10 * D * pairs * LAYERS * passes)
        self.assertEqual(sum(r["flop"] for r in rows["cross_entropy"]), 2 * T * V * C * passes)  # the logits of the head

    def ops_make_up_the_step_and_phases_nest(self, trace):
        step = trace["spans"][0]
        self.assertEqual((step["name"], step["depth"], step["calls"]), ("step", 0, STEPS - 1))
        ops = sum(row["busy_s"] for row in trace["ops"])
        self.assertLessEqual(ops, step["busy_s"])
        self.assertGreater(ops, 0.75 * step["busy_s"])
        inner = {s["name"]: s for s in trace["spans"] if s["depth"] == 1}
        self.assertLessEqual({"data", "forward", "head", "backward", "sum", "norm", "optimizer", "gather"}, set(inner))
        self.assertLessEqual(sum(s["seconds"] for s in inner.values()), step["seconds"])
        events = sorted((e for e in trace["traceEvents"] if e["ph"] == "X"), key=lambda e: (e["ts"], -e["dur"]))
        stack = []
        for e in events:
            while stack and stack[-1] <= e["ts"] + UNIT_US:
                stack.pop()
            end = e["ts"] + e["dur"]
            if stack:
                self.assertLessEqual(end, stack[-1] + UNIT_US, e)
            stack.append(end)

    def test_a_profile_does_not_change_the_bits(self):
        losses = []
        for more in ([], ["--profile", self.dir / "trace.json"]):
            out = self.dir / f"out{len(losses)}"
            done = self.run_worker(self.job(), "--out", out, *more)
            self.assertEqual(done.returncode, 0, done.stderr)
            steps = [e for e in self.journal(out=out) if e["type"] == "step"]
            losses.append([(e["loss"], e["grad_norm"]) for e in steps])
            for e in steps:  # EVENT-11: one thread cannot use more than the time that passes
                self.assertTrue(0 < e["cpu_s"] < 1.1 * e["step_s"], e)
        self.assertEqual(losses[0], losses[1])

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_every_rank_writes_a_trace_and_the_first_one_the_table(self):
        text, trace = self.profile(ranks=2)
        other = json.loads((self.dir / "trace.json.rank1").read_text())
        self.assertEqual(text.count("all ops"), 1)
        for rank, t in enumerate((trace, other)):
            self.assertEqual({e["pid"] for e in t["traceEvents"]}, {rank})
            self.assertEqual(t["spans"][0]["calls"], STEPS - 1)

    def test_kinds_without_steps_are_one_span(self):
        job = self.write(check_job())
        done = self.run_worker(job, "--out", self.out, "--profile", self.dir / "trace.json")
        self.assertEqual(done.returncode, 0, done.stderr)
        trace = json.loads((self.dir / "trace.json").read_text())
        self.assertEqual([(s["name"], s["calls"]) for s in trace["spans"]], [("check", 1)])
        self.assertFalse(trace["machine"]["first_left_out"])
        self.assertGreater(sum(row["flop"] for row in trace["ops"]), 0)

    def test_what_cannot_be_profiled_is_refused(self):
        self.refused(self.run_worker(self.job(), "--plan", "--profile", "x"), 64, "--profile")
        self.refused(self.run_worker(self.job(), "--out", self.out, "--profile"), 64, "--profile wants a value")
        self.refused(self.run_worker(self.job(), "--out", self.out, "--profile", self.dir / "none" / "x"), 65, "none/x")
        prepare = self.job(kind="prepare")
        self.refused(self.run_worker(prepare, "--out", self.out, "--profile", self.dir / "x"), 64, "--profile")


if __name__ == "__main__":
    unittest.main()
