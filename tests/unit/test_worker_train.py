#!/usr/bin/env python3
"""Training as users of longhaul-worker meet it: positions that break a model, members that change what is learned, threads, ranks.

Uses the program in $LONGHAUL_BIN and the golden cases in tests/golden/cases as models and data.
"""
import array
import json
import math
import os
import random
import shutil
import struct
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_worker import CASES, NO_MPI, ROOT, WorkerTest, safetensors, train_job

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
REAL = Path(os.environ.get("LONGHAUL_GGUF", CACHE / "longhaul" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"))


def write_tokens(path, rows, labels=None):
    """A tokens file of one step; labels: the ids themselves unless given."""
    shape, parts, header = [1, len(rows), len(rows[0])], [], {}
    for name, values in (("input_ids", rows), ("labels", labels or rows)):
        parts.append(b"".join(struct.pack(f"<{len(row)}q", *row) for row in values))
        at = sum(map(len, parts))
        header[name] = {"dtype": "I64", "shape": shape, "data_offsets": [at - len(parts[-1]), at]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    return str(path)


class Trains(WorkerTest):
    def result(self, out=None):
        return self.journal(out=out)[-1]["result"]

    def steps(self, out=None):
        return [event for event in self.journal(out=out) if event["type"] == "step"]

    def train(self, job, name, *args, ranks=1, **more):
        out = self.dir / name
        done = self.run_worker(self.write(job, f"{name}.json"), "--out", out, *args, ranks=ranks, **more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return out

    def trained(self, out, step):
        """The numbers of a checkpoint's trained tensors, by key."""
        header, data = safetensors(out / "checkpoints" / f"step-{step:08d}" / "adapter_model.safetensors")
        return {key: array.array("f", data[slice(*entry["data_offsets"])]) for key, entry in header.items()
                if key != "__metadata__"}


class Positions(Trains):
    """A tiny model learns to say what stood four tokens before: it is lost without positions."""
    MODEL = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 32,
             "num_hidden_layers": 1, "vocab_size": 29, "tie_word_embeddings": False, "max_position_embeddings": 64}

    home = base = None

    @classmethod
    def setUpClass(cls):
        cls.home = Path(tempfile.mkdtemp(prefix="test-positions-"))
        cls.addClassCleanup(shutil.rmtree, cls.home)

    def learned(self):
        """-> base directory (a checkpoint of full fine-tuning, made once) and the tokens file."""
        if not Positions.base:
            Positions.base = self.learn()
        return Positions.base, str(self.home / "tokens.safetensors")

    def learn(self):
        draw, model = random.Random(5), self.home / "model"
        model.mkdir()
        given = json.loads((CASES / "full-dense-yarn" / "model" / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**given, **self.MODEL}))
        self.write_weights(model / "model.safetensors", draw)
        rows = [(draw.choices(range(29), k=5) * 13)[:64] for _ in range(16 * 300)]
        tokens = write_tokens(self.home / "tokens.safetensors", rows)
        job = {"kind": "train", "precision": "fp32", "model": {"base": str(model)}, "adapter": None,
               "context": {"length": 64, "attention": {"type": "dense"}}, "data": {"train": [tokens], "format": "tokens"},
               "optim": {"lr": 0.01, "schedule": "cosine", "steps": 300, "batch_sequences": 16}}
        out = self.home / "learn"
        done = self.run_worker(self.write(job), "--out", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertLess(self.steps(out)[-1]["loss"], 0.6)
        self.assertNotIn("rope_check", self.result(out)) # nothing was scaled
        return out / "checkpoints" / "step-00000300"

    def write_weights(self, path, draw):
        c, f, v = (self.MODEL[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
        shapes = {"model.embed_tokens.weight": (v, c), "model.norm.weight": (c,), "lm_head.weight": (v, c)}
        for name, shape in {"input_layernorm": (c,), "post_attention_layernorm": (c,), "mlp.gate_proj": (f, c), "mlp.up_proj": (f, c),
                            "mlp.down_proj": (c, f), **{f"self_attn.{x}_proj": (c, c) for x in "qkvo"}}.items():
            shapes[f"model.layers.0.{name}.weight"] = shape
        header, data = {}, b""
        for name, shape in shapes.items():
            n = shape[0] * (shape[1] if len(shape) > 1 else 1)
            values = [1.0 if len(shape) == 1 else draw.gauss(0, 1 / c ** 0.5) for _ in range(n)]
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * n]}
            data += struct.pack(f"<{n}f", *values)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)

    def test_a_model_that_its_scaling_has_broken_is_refused_with_figures(self): # JOB-48
        base, tokens = self.learned()
        job = {"kind": "train", "precision": "fp32", "model": {"base": str(base)}, "data": {"train": [tokens], "format": "tokens"},
               "context": {"length": 64, "attention": {"type": "dense"}, "rope": {"type": "linear", "factor": 32}},
               "optim": {"lr": 1e-3, "steps": 2, "batch_sequences": 2}}
        done = self.run_worker(self.write(job), "--out", self.out)
        self.refused(done, 64, "/context/rope", "linear", "factor 32", "0 to 15: ", "guessing: 3.37", "skip_check")
        self.assertEqual(self.journal()[-2]["pointer"], "/context/rope")
        self.assertFalse(self.steps())
        if not NO_MPI:
            self.refused(self.run_worker(self.write(job), "--out", self.out, ranks=2), 64, "/context/rope", "0 to 15: ")
        job["context"]["rope"]["skip_check"] = True
        out = self.train(job, "skipped")
        self.assertNotIn("rope_check", self.result(out))
        self.assertEqual(len(self.steps(out)), 2)

    def test_a_mild_scaling_is_measured_and_leaves_the_run_as_it_would_be(self): # JOB-48
        base, tokens = self.learned()
        job = {"kind": "train", "precision": "fp32", "model": {"base": str(base)}, "data": {"train": [tokens], "format": "tokens"},
               "context": {"length": 64, "attention": {"type": "dense"}, "rope": {"type": "yarn", "factor": 1.1}},
               "optim": {"lr": 1e-3, "steps": 3, "batch_sequences": 2}}
        out = self.train(job, "checked")
        check = self.result(out)["rope_check"]
        self.assertEqual((check["tokens"], [band["begin"] for band in check["bands"]]), (64, [0, 16, 32, 48]))
        for band in check["bands"][1:]:
            self.assertLess(band["base"], 0.5)
            self.assertGreater(band["scaled"], band["base"])
            self.assertLess(band["scaled"], band["limit"])
        job["context"]["rope"]["skip_check"] = True
        self.assertEqual(self.trained(self.train(job, "unchecked"), 3), self.trained(out, 3))
        resumed = self.train({**job, "context": {**job["context"], "rope": {"type": "yarn", "factor": 1.1, "skip_check": True}}},
                             "resumed", "--resume", self.dir / "unchecked" / "checkpoints" / "step-00000003")
        self.assertNotIn("rope_check", self.result(resumed))

    def test_the_scaling_in_force_is_told_at_the_start_and_kept_in_the_checkpoint(self): # CKPT-9, EVENT-9
        job = train_job(context={"length": 40, "rope": {"type": "ntk", "factor": 2}, "attention": {"type": "dense"}}, steps=2)
        out = self.dir / "told"
        done = self.run_worker(self.write(job), "--out", out)
        self.assertEqual(done.returncode, 0, done.stderr)
        theta = 10000 * 2 ** (8 / 6)
        want = {"rope_type": "default", "rope_theta": theta}
        self.assertIn(f"rope=default factor=1 theta={theta:g}", done.stderr)
        state = json.loads((out / "checkpoints" / "step-00000002" / "state.json").read_text())
        self.assertEqual(state["context"], {"length": 40, "rope": want})
        self.assertEqual(self.journal(out=out)[0]["plan"]["rope"], want)
        answer = json.loads(self.run_worker(self.write(job), "--plan").stdout)
        self.assertEqual(answer["rope"], want)

    def test_exports_carry_scalings_that_other_programs_read(self): # JOB-38, CKPT-24
        for rope, want, positions in [({"type": "ntk", "factor": 2}, {"rope_type": "default", "rope_theta": 10000 * 2 ** (8 / 6)}, 40),
                                      ({"type": "dynamic", "factor": 2}, {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}, 20)]:
            job = train_job(context={"length": 40, "rope": rope, "attention": {"type": "dense"}}, steps=2)
            trained = self.train(job, f"train-{rope['type']}") / "checkpoints" / "step-00000002"
            export = {"kind": "export", "model": {"base": job["model"]["base"], "adapter": str(trained)}, "export": {"dtype": "f32"}}
            out = self.train(export, f"export-{rope['type']}")
            config = json.loads((out / "export" / "config.json").read_text())
            self.assertEqual((config["rope_parameters"], config["max_position_embeddings"]), (want, positions))
            self.assertEqual(config["rope_theta"], want["rope_theta"])


@unittest.skipUnless(REAL.exists(), f"{REAL} is not there")
class RealPositions(Trains):
    def test_scalings_that_training_repairs_are_far_from_the_limit(self): # JOB-40
        for rope in ({"type": "linear", "factor": 2}, {"type": "linear", "factor": 32}, {"type": "yarn", "factor": 4}):
            job = {"kind": "train", "model": {"base": str(REAL)}, "context": {"length": 512, "rope": rope},
                   "data": {"train": [str(ROOT / "README.md")], "pack": "join"}} # no rate: one pass, nothing is saved
            check = self.result(self.train(job, f"{rope['type']}-{rope['factor']}"))["rope_check"]
            self.assertEqual((check["tokens"], len(check["bands"])), (512, 4))
            for band in check["bands"]:
                self.assertGreater(band["scaled"], band["base"] - 0.05)
                self.assertLess(band["scaled"], band["limit"] - 0.8, (rope, band))
            if rope["type"] == "linear":
                self.assertGreater(check["bands"][2]["scaled"], check["bands"][2]["base"] + 0.3)


@unittest.skipUnless(REAL.exists(), f"{REAL} is not there")
class RealPrecision(Trains):
    def gradients(self, precision):
        """Of all tensors but the embedding, and the loss."""
        job = {"kind": "train", "model": {"base": str(REAL)}, "precision": precision,
               "context": {"length": 1024, "attention": {"type": "s2"}},
               "data": {"train": [str(ROOT / "README.md")], "pack": "join"}}
        out = self.train(job, precision, "--dump", self.dir / precision)
        header, data = safetensors(self.dir / precision / "results.safetensors")
        return self.steps(out)[0]["loss"], {
            key: array.array("f", data[slice(*entry["data_offsets"])]) for key, entry in header.items()
            if key.startswith("grad.") and "embed" not in key}

    def test_bf16_is_near_fp32(self): # JOB-51
        (loss, want), (low_loss, got) = self.gradients("fp32"), self.gradients("bf16")
        self.assertLess(abs(low_loss - loss), 0.005 * loss)
        self.assertNotEqual(low_loss, loss)
        apart = sorted(math.dist(got[key], values) / math.hypot(*values) for key, values in want.items() if any(values))
        self.assertGreater(len(apart), 100)
        self.assertLess(apart[len(apart) // 2], 0.15)


class Deterministic(Trains):
    def files(self, out):
        return {path.name: path.read_bytes() for path in sorted((out / "checkpoints" / "step-00000004").glob("*.safetensors"))}

    def test_any_number_of_threads_gives_the_same_bits(self):
        for precision in ("fp32", "bf16"):
            job = train_job("dropout", steps=4, precision=precision)
            job["adapter"] = {**job["adapter"], "dropout": 0.1}
            outs = [self.train({**job, "resources": {"threads": n}}, f"{precision}-{n}") for n in (1, 2, 3, 5)]
            for out in outs[1:]:
                self.assertEqual(self.files(out), self.files(outs[0]))
                self.assertEqual([event["loss"] for event in self.steps(out)], [event["loss"] for event in self.steps(outs[0])])

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_two_runs_on_two_ranks_give_the_same_bits(self):
        job = train_job("dropout", steps=4)
        one, two = (self.train(job, name, ranks=2) for name in ("one", "two"))
        self.assertEqual(self.files(one), self.files(two))


class Members(Trains):
    """What a member of the job changes, and that it changes nothing else."""

    def final(self, name, steps=2, case="dropout", **members):
        job = train_job(case, steps=steps)
        for section, values in members.items():
            job[section] = {**job[section], **values}
        return self.trained(self.train(job, name), steps)

    def test_weight_decay_reaches_factors_and_embeddings_and_no_norm(self): # JOB-19's table: optim.weight_decay
        # One step from the same gradients: what decays differs by lr x decay of what it was.
        plain, decayed = self.final("plain", 1), self.final("decayed", 1, optim={"weight_decay": 0.5})
        for key, values in plain.items():
            differs = values != decayed[key]
            self.assertEqual(differs, "norm" not in key, key)

    def test_the_rate_of_b_is_the_ratio_times_that_of_a(self):
        before = self.trained_before()
        one, eight = self.final("one", 1), self.final("eight", 1, optim={"lora_plus_ratio": 8})
        for key, start in before.items():
            times = 8 if "lora_B" in key else 1
            for i, value in enumerate(start):
                moved = one[key][i] - value
                self.assertAlmostEqual(eight[key][i] - value, times * moved, delta=1e-5 * times * 0.01 + 2e-6)

    def trained_before(self):
        header, data = safetensors(CASES / "dropout" / "adapter" / "adapter_model.safetensors")
        return {key: array.array("f", data[slice(*entry["data_offsets"])]) for key, entry in header.items() if key != "__metadata__"}

    def test_dropout_stands_in_the_adapter_and_does_not_touch_evaluation(self): # JOB-39
        job = train_job("dropout", steps=2)
        job["eval"] = {"perplexity": [job["data"]["train"][0]], "lengths": [24]}
        job["optim"]["lr"] = 0 # the model stays what it was
        seen = {}
        for rate in (0, 0.5):
            job["adapter"] = {**job["adapter"], "dropout": rate}
            out = self.train(job, f"rate-{rate}")
            config = json.loads((out / "checkpoints" / "step-00000002" / "adapter_config.json").read_text())
            self.assertEqual(config["lora_dropout"], rate)
            seen[rate] = (self.result(out)["eval"], [event["loss"] for event in self.steps(out)])
        self.assertEqual(seen[0][0], seen[0.5][0])
        self.assertNotEqual(seen[0][1], seen[0.5][1])

    def test_a_sequence_without_labels_adds_zero(self):
        draw = random.Random(9)
        rows = [[draw.randrange(21) for _ in range(24)] for _ in range(3)]
        none, outs = [-100] * 24, []
        for name, order in (("alone", rows[:1]), ("among", rows)):
            tokens = write_tokens(self.dir / f"{name}.safetensors", order, [order[0]] + [none] * (len(order) - 1))
            job = train_job("dropout", steps=2, data={"train": [tokens], "format": "tokens"})
            job["adapter"] = {**job["adapter"], "dropout": 0}
            job["optim"]["batch_sequences"] = len(order)
            outs.append(self.train(job, name))
        losses = [[event["loss"] for event in self.steps(out)] for out in outs]
        self.assertEqual(losses[0], losses[1])
        one, two = (self.trained(out, 2) for out in outs)
        for key, values in one.items():
            for a, b in zip(values, two[key]):
                self.assertAlmostEqual(a, b, delta=1e-6)

    def test_a_batch_without_any_label_changes_nothing(self):
        rows = [[3] * 24] * 3
        tokens = write_tokens(self.dir / "none.safetensors", rows, [[-100] * 24] * 3)
        job = train_job("dropout", steps=2, data={"train": [tokens], "format": "tokens"})
        out = self.train(job, "none")
        self.assertEqual([event["loss"] for event in self.steps(out)], [0, 0])
        before = self.trained_before()
        for key, values in self.trained(out, 2).items():
            self.assertEqual(values, before[key], key)


if __name__ == "__main__":
    unittest.main()
