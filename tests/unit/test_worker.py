#!/usr/bin/env python3
"""longhaul-worker as its users meet it: command line, exit codes, journals, stops, kills, bad input.

Uses the program in $LONGHAUL_BIN and the golden cases in tests/golden/cases as models and data.
"""
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKER = str(Path(os.environ.get("LONGHAUL_BIN", ROOT / "build" / "bin")) / "longhaul-worker")
CASES = ROOT / "tests" / "golden" / "cases"
MPIRUN = ("mpirun --allow-run-as-root --bind-to none --oversubscribe "
          "--mca mpi_yield_when_idle 1 --mca btl self,vader").split()
NO_MPI = "LONGHAUL_NO_MPI" in os.environ


def safetensors(path):
    """-> header, bytes of the data."""
    data = path.read_bytes()
    length, = struct.unpack_from("<Q", data)
    return json.loads(data[8:8 + length]), data[8 + length:]


class WorkerTest(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp(prefix="test-worker-"))
        self.addCleanup(shutil.rmtree, self.dir)
        self.out = self.dir / "out"

    def write(self, job, name="job.json"):
        path = self.dir / name
        path.write_text(job if isinstance(job, str) else json.dumps(job))
        return str(path)

    def environment(self, more):
        return {**os.environ, "LONGHAUL_CACHE": str(self.dir / "cache"), **more}

    def run_worker(self, *args, ranks=1, **more):
        launcher = MPIRUN + ["-np", str(ranks)] if ranks > 1 else []
        return subprocess.run([*launcher, WORKER, *map(str, args)], capture_output=True, text=True, timeout=120,
                              env=self.environment(more))

    def start_worker(self, *args, ranks=1, stdout=subprocess.DEVNULL, **more):
        launcher = MPIRUN + ["-np", str(ranks)] if ranks > 1 else []
        process = subprocess.Popen([*launcher, WORKER, *map(str, args)], stdout=stdout,
                                   stderr=subprocess.DEVNULL, env=self.environment(more))
        self.addCleanup(lambda: process.poll() is None and process.kill())
        return process

    def journal(self, rank=0, out=None):
        path = (out or self.out) / "events" / f"rank-{rank}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, kind, rank=0):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = [event for event in self.journal(rank) if event["type"] == kind]
            if found:
                return found
            time.sleep(0.02)
        self.fail(f"no {kind} event of rank {rank} within 60 s")

    def refused(self, done, code, *words):
        self.assertEqual(done.returncode, code, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("longhaul-worker: ")]
        self.assertEqual(len(lines), 1, done.stderr)
        for word in words:
            self.assertIn(str(word), lines[0])


def check_job(seconds=0.1, **more):
    return {"kind": "check", "check": {"seconds": seconds, "matrix": 64, "allreduce_mib": 1}, **more}


def train_job(case="s2-packed-gqa-tied", steps=6, **more):
    """A golden case as a job of its own length."""
    given = json.loads((CASES / case / "case.json").read_text())
    job = {key: given[key] for key in ("kind", "precision", "context", "adapter")}
    job["model"] = {key: str(CASES / case / path) for key, path in given["model"].items()}
    job["data"] = {**given["data"], "train": [str(CASES / case / "batch.safetensors")]}
    job["optim"] = {**given["optim"], "steps": steps}
    return {**job, **more}


class CommandLine(WorkerTest):
    def test_version_and_help_go_to_stdout(self):
        done = self.run_worker("--version")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"^longhaul-worker \d+\.\d+\.\d+\n$")
        self.assertIn("--resume DIR", self.run_worker("--help").stdout)

    def test_a_wrong_command_line_is_one_sentence_and_64(self):
        job = self.write(check_job())
        self.refused(self.run_worker(), 64, "JOB.json")
        self.refused(self.run_worker(job), 64, "--out DIR is missing")
        self.refused(self.run_worker(job, "--out"), 64, "--out wants a value")
        self.refused(self.run_worker(job, "--outt", "x"), 64, "unknown option --outt")
        self.refused(self.run_worker("--tokenize", "a"), 64, "--tokenize wants")

    def test_a_job_file_that_is_absent_or_no_json_is_named(self):
        self.refused(self.run_worker(self.dir / "none.json", "--out", self.out), 65, "none.json")
        self.refused(self.run_worker(self.write("{,"), "--out", self.out), 64, "job.json", "line 1")

    def test_an_output_directory_that_cannot_be_made_is_named(self):
        (self.dir / "file").write_text("")
        self.refused(self.run_worker(self.write(check_job()), "--out", self.dir / "file" / "x"), 65, "file")

    def test_a_mistyped_member_is_refused_with_pointer_and_nearest_name(self):
        job = {**check_job(), "retri": {}}
        self.refused(self.run_worker(self.write(job), "--out", self.out), 64, "/retri", "retry")
        error, done = self.journal()[-2:]
        self.assertEqual((error["type"], error["code"], error["pointer"], error["exit"]), ("error", "bad_job", "/retri", 64))
        self.assertEqual((done["type"], done["outcome"], done["exit"]), ("done", "failed", 64))


class Check(WorkerTest):
    def test_the_journal_begins_with_start_and_ends_with_done_and_figures(self):
        done = self.run_worker(self.write(check_job(name="self test")), "--out", self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        events = self.journal()
        self.assertEqual([events[0]["type"], events[-1]["type"]], ["start", "done"])
        for member in "version kind host pid local_rank ranks slots device cpu isa library threads".split():
            self.assertIn(member, events[0])
        result = events[-1]["result"]
        self.assertEqual(result["errors"], 0)
        self.assertGreaterEqual(result["rounds"], 1)
        self.assertGreater(result["matmul_gflop_s"], 0)
        self.assertGreater(result["memory_gb_s"], 0)
        self.assertTrue((self.out / "events" / "rank-0.beat").exists())

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_a_gang_of_three_tests_itself(self):
        done = self.run_worker(self.write(check_job()), "--out", self.out, ranks=3)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([self.journal(rank)[-1]["outcome"] for rank in range(3)], ["done"] * 3)
        result = self.journal()[-1]["result"]
        self.assertEqual((result["errors"], len(result["ranks"])), (0, 3))
        self.assertGreater(result["allreduce_gb_s"], 0)

    def test_term_stops_a_job_of_a_minute_at_once_with_85(self):
        process = self.start_worker(self.write(check_job(seconds=60)), "--out", self.out)
        self.wait_for("phase")
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=10), 85)
        self.assertLess(time.monotonic() - asked, 10) # a fifth of a second where nobody else computes
        self.assertEqual((self.journal()[-1]["outcome"], self.journal()[-1]["exit"]), ("stopped", 85))

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_a_stop_file_stops_all_ranks_and_is_taken_away(self):
        process = self.start_worker(self.write(check_job(seconds=60)), "--out", self.out, ranks=2)
        self.wait_for("phase")
        (self.out / "stop").touch()
        self.assertEqual(process.wait(timeout=20), 85)
        self.assertEqual([self.journal(rank)[-1]["outcome"] for rank in range(2)], ["stopped"] * 2)
        self.assertFalse((self.out / "stop").exists())

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_ranks_with_different_jobs_are_refused(self):
        one, two = self.write(check_job(), "one.json"), self.write(check_job(priority=3), "two.json")
        done = subprocess.run([*MPIRUN, "-np", "1", WORKER, one, "--out", str(self.out),
                               ":", "-np", "1", WORKER, two, "--out", str(self.out)],
                              capture_output=True, text=True, timeout=60)
        self.refused(done, 65, "rank 1 has another job")
        self.assertEqual([self.journal(rank)[-1]["exit"] for rank in range(2)], [65, 65])

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_an_error_of_one_rank_ends_all_with_its_code(self):
        job = self.write(check_job())
        begun = time.monotonic()
        done = subprocess.run([*MPIRUN, "-np", "2", WORKER, job, "--out", str(self.out),
                               ":", "-np", "1", WORKER, str(self.dir / "absent.json"), "--out", str(self.out)],
                              capture_output=True, text=True, timeout=60)
        self.refused(done, 65, "absent.json")
        self.assertLess(time.monotonic() - begun, 15)


class Preflight(WorkerTest):
    def plan(self, job, **more):
        done = self.run_worker(self.write(job), "--plan", **more)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.count("\n"), 1)
        return json.loads(done.stdout)

    def problem(self, job, code, pointer, *words):
        answer = self.plan(job)
        self.assertEqual((answer["ok"], answer.get("code"), answer.get("pointer")), (False, code, pointer), answer)
        for word in words:
            self.assertIn(str(word), answer["detail"])

    def model(self, case="full-dense-yarn"):
        """A copy of a case's model to do harm to, and a job on it."""
        shutil.copytree(CASES / case / "model", self.dir / "model")
        return self.dir / "model", train_job(case, model={"base": str(self.dir / "model")})

    def test_a_plan_has_bytes_and_flops(self):
        answer = self.plan(train_job())
        self.assertTrue(answer["ok"], answer)
        self.assertEqual(sum(answer["bytes"].values()), answer["bytes_per_rank"])
        self.assertGreater(answer["flops_per_step"], 0)
        self.assertGreater(answer["parameters"], answer["trainable"])
        self.assertEqual(answer["steps"], 6)
        self.assertEqual(answer["rope"]["factor"], 2)
        self.assertFalse(self.out.exists())

    def test_a_check_needs_no_model(self):
        self.assertEqual(self.plan(check_job()), {"ok": True})

    def test_a_model_directory_that_is_absent_or_has_no_config_is_named(self):
        self.problem(train_job(model={"base": "/nowhere/model"}), "bad_input", "/model/base", "/nowhere/model")
        model, job = self.model()
        (model / "config.json").unlink()
        self.problem(job, "bad_input", "/model/base", "config.json")

    def test_another_architecture_is_refused(self):
        model, job = self.model()
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}))
        self.problem(job, "bad_input", "/model/base", "GPT2")

    def test_a_truncated_or_hostile_safetensors_is_refused(self):
        model, job = self.model()
        weights = model / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-7])
        self.problem(job, "bad_input", "/model/base", "model.safetensors")
        weights.write_bytes(struct.pack("<Q", 1 << 62) + whole[8:])
        self.problem(job, "bad_input", "/model/base", "model.safetensors")

    def test_a_tensor_of_another_shape_is_named(self):
        model, job = self.model()
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "intermediate_size": 21}))
        self.problem(job, "bad_input", "/model/base", "mlp", "21")

    def test_data_that_is_absent_or_empty_is_named(self):
        job = train_job()
        job["data"]["train"] = ["/nowhere/batch.safetensors"]
        self.problem(job, "bad_input", "/data/train/0", "/nowhere/batch.safetensors")
        (self.dir / "empty.safetensors").write_bytes(b"")
        job["data"]["train"] = [str(self.dir / "empty.safetensors")]
        self.problem(job, "bad_input", "/data/train/0", "empty")

    def test_addresses_that_a_node_must_fetch_first_are_refused(self):
        self.problem(train_job(model={"base": "s3://models/tiny"}), "bad_job", "/model/base", "s3://models/tiny")

    def test_an_adapter_that_does_not_fit_the_job_is_refused(self):
        job = train_job()
        job["adapter"] = {**job["adapter"], "rank": 7}
        self.problem(job, "bad_job", "/adapter/rank", "7", "3")

    def test_too_little_memory_shows_the_table_of_the_plan(self):
        self.problem(train_job(limits={"memory_bytes": 10000}), "not_enough_memory", "/limits/memory_bytes",
                     "weights", "activations")

    def test_a_device_that_is_not_built_is_named(self):
        answer = self.plan(check_job(resources={"device": "cuda"}))
        self.assertEqual((answer["ok"], answer["pointer"]), (False, "/resources/device"))


def byte_tokenizer():
    """tokenizer.json with one token a byte and no merges, spelled as byte-level BPE spells bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None, "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": {letters[byte]: byte for byte in range(256)}, "merges": []}}


class Texts(WorkerTest):
    def setUp(self):
        super().setUp()
        shutil.copytree(CASES / "full-dense-yarn" / "model", self.dir / "model")
        (self.dir / "model" / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
        (self.dir / "texts").mkdir()
        (self.dir / "texts" / "a.txt").write_text("A first text.\n")
        (self.dir / "texts" / "b.txt").write_text("Ein zweiter, mit \u00e4.\n")
        self.job = {"kind": "prepare", "model": {"base": str(self.dir / "model")},
                    "data": {"train": [str(self.dir / "texts" / "*.txt")]}}

    def test_prepare_leaves_shards_with_a_manifest_that_is_true(self):
        for attempt in range(2): # the second finds everything done
            done = self.run_worker(self.write(self.job), "--out", self.out)
            self.assertEqual(done.returncode, 0, done.stderr)
        shards = self.out / "shards"
        manifest = json.loads((shards / "manifest.json").read_text())
        self.assertEqual(manifest["kind"], "shards")
        self.assertEqual({file["name"] for file in manifest["files"]} | {"manifest.json"}, set(os.listdir(shards)))
        for file in manifest["files"]:
            self.assertEqual(hashlib.sha256((shards / file["name"]).read_bytes()).hexdigest(), file["sha256"])
        tokens = b"".join(path.read_bytes() for path in sorted(shards.glob("tokens-*.bin")))
        ids = struct.unpack(f"<{len(tokens) // 4}i", tokens)
        self.assertIn("A first text.\n", bytes(i for i in ids if 0 <= i < 256).decode())
        self.assertEqual(self.journal()[-1]["result"]["train"]["about"]["documents"], 2)

    def test_the_option_prepare_fills_the_cache_and_nothing_else(self):
        (self.dir / "texts" / "c.txt").write_text("Long enough to fill a window. " * 4)
        job = {**train_job("full-dense-yarn"), "data": self.job["data"], "model": self.job["model"]}
        done = self.run_worker(self.write(job), "--prepare")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(list((self.dir / "cache" / "shards").glob("*/manifest.json"))), 1)
        self.assertFalse(self.out.exists())

    def test_text_that_is_empty_or_not_utf8_is_named(self):
        (self.dir / "texts" / "b.txt").write_bytes(b"fine, then \xff\xfe\n")
        self.refused(self.run_worker(self.write(self.job), "--out", self.out), 65, "b.txt")
        (self.dir / "texts" / "b.txt").write_bytes(b"")
        self.refused(self.run_worker(self.write(self.job), "--out", self.out), 65, "b.txt")

    def test_a_tokenizer_that_does_not_match_the_vocabulary_is_refused(self):
        job = {**train_job("full-dense-yarn"), "data": self.job["data"], "model": self.job["model"]}
        answer = json.loads(self.run_worker(self.write(job), "--plan").stdout)
        self.assertEqual((answer["ok"], answer["code"], answer["pointer"]), (False, "bad_input", "/model/base"))
        self.assertIn("256", answer["detail"])
        self.assertIn("29", answer["detail"])


def letter_tokenizer():
    """29 tokens: a to z, newline, space, and the control token <e>."""
    tokenizer = byte_tokenizer()
    letters = [*"abcdefghijklmnopqrstuvwxyz", "\u010a", "\u0120", "<e>"]
    tokenizer["model"]["vocab"] = {letter: i for i, letter in enumerate(letters)}
    tokenizer["added_tokens"] = [{"id": 28, "content": "<e>", "special": True, "normalized": False, "single_word": False,
                                  "lstrip": False, "rstrip": False}]
    return tokenizer


class Dialogues(WorkerTest):
    RECORDS = [{"instruction": "who", "output": "a worker"}, {"instruction": "x" * 60, "output": "cut away"},
               {"instruction": "why", "input": "now", "output": "y" * 60}, {"instruction": "nothing", "output": ""},
               {"messages": [{"role": "user", "content": "when <e>"}, {"role": "assistant", "content": "soon"}]}]
    # Tokens of each: prompt with its newline, answer with the control token.
    WHO, LONG, WHY, WHEN = (4, 9), (61, 9), (8, 61), (7, 5) # "<" and ">" have no token

    def setUp(self):
        super().setUp()
        shutil.copytree(CASES / "full-dense-yarn" / "model", self.dir / "model")
        (self.dir / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer()))
        (self.dir / "model" / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<e>"}))
        (self.dir / "d.json").write_text(json.dumps(self.RECORDS, indent=1))
        self.data = {"train": [str(self.dir / "d.json")], "format": "sft", "template": "plain"}
        self.model = {"base": str(self.dir / "model")}

    def train(self, name, **data):
        job = {**train_job("full-dense-yarn"), "model": self.model, "data": {**self.data, **data}}
        return self.run_worker(self.write(job), "--out", self.dir / name)

    def losses(self, name):
        return [event["loss"] for event in self.journal(out=self.dir / name) if event["type"] == "step"]

    def test_prepare_counts_what_is_trained_and_what_is_not(self):
        job = {"kind": "prepare", "model": self.model, "data": self.data}
        parts = [self.WHO, self.LONG, self.WHY, self.WHEN]
        for context, counts in [({}, (4, 1, 0, sum(map(sum, parts)), sum(answer for _, answer in parts))),
                                ({"context": {"length": 48}}, (3, 2, 1, 13 + 48 + 12, 9 + 40 + 5))]:
            done = self.run_worker(self.write({**job, **context}), "--out", self.out)
            self.assertEqual(done.returncode, 0, done.stderr)
            train = self.journal()[-1]["result"]["train"]
            names = ("samples", "dropped", "truncated", "tokens", "labels")
            self.assertEqual(tuple(train[name] for name in names), counts)
            self.assertEqual((train["records"], train["about"]["template"]), (5, "plain"))
        self.assertIn("labels-00000.bin", os.listdir(self.out / "shards"))
        self.assertNotIn("seconds", train) # nothing was left to do the second time

    def test_samples_train_packed_alone_or_joined_and_from_shards(self):
        seen = {}
        for pack in (True, False, "join"):
            done = self.train(f"out-{pack}", pack=pack)
            self.assertEqual(done.returncode, 0, done.stderr)
            seen[pack] = self.losses(f"out-{pack}")
            self.assertEqual(len(seen[pack]), 6)
        self.assertEqual(len({tuple(losses) for losses in seen.values()}), 3)
        result = self.journal(out=self.dir / "out-True")[-1]["result"]["data"]
        self.assertEqual((result["samples"], result["truncated"]), (3, 1))
        job = {"kind": "prepare", "model": self.model, "data": self.data}
        self.assertEqual(self.run_worker(self.write(job), "--out", self.out).returncode, 0)
        done = self.train("out-shards", train=[str(self.out / "shards")])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.losses("out-shards"), seen[True])
        job = {**train_job("full-dense-yarn"), "model": self.model, "data": {"train": [str(self.out / "shards")]}}
        self.refused(self.run_worker(self.write(job), "--out", self.dir / "text"), 65, 'data.format "sft"')

    def test_what_cannot_be_written_is_refused_before_anything_runs(self):
        for change, pointer, words in [({"template": "chatml"}, "/data/template", "<|im_start|>"),
                                       ({"train": [str(self.dir / "model" / "model.safetensors")]}, "/data/train/0",
                                        ".jsonl")]:
            job = {**train_job("full-dense-yarn"), "model": self.model, "data": {**self.data, **change}}
            answer = json.loads(self.run_worker(self.write(job), "--plan").stdout)
            self.assertEqual((answer["ok"], answer["code"], answer["pointer"]), (False, "bad_input", pointer))
            self.assertIn(words, answer["detail"])
        (self.dir / "d.json").write_text(json.dumps([{"instruction": "x", "output": 7}]))
        self.refused(self.train("out"), 65, "d.json", "record 1", "'output'")


class Training(WorkerTest):
    def final(self, out, step):
        """Digests of what a checkpoint holds of numbers, and its loss."""
        folder = out / "checkpoints" / f"step-{step:08d}"
        state = json.loads((folder / "state.json").read_text())
        files = [folder / "adapter_model.safetensors", folder / "optimizer.safetensors"]
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] + [state["last_loss"], state["tokens"]]

    def losses(self, out):
        return {event["step"]: event["loss"] for event in self.journal(out=out) if event["type"] == "step"}

    def interrupted(self, fault, ranks):
        job = self.write(train_job(checkpoint={"every_steps": 1, "keep": 10}))
        out = self.dir / f"out-{fault.replace(':', '-')}-{ranks}"
        killed = self.run_worker(job, "--out", out, ranks=ranks, LONGHAUL_FAULT=fault)
        self.assertIn(killed.returncode, (-9, 137), f"{fault} was not reached: {killed.stderr}")
        args = ["--resume", out / "checkpoints"] if list((out / "checkpoints").glob("*/manifest.json")) else []
        resumed = self.run_worker(job, "--out", out, *args, ranks=ranks)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        return out

    def whole(self, ranks):
        out = self.dir / f"whole-{ranks}"
        done = self.run_worker(self.write(train_job(checkpoint={"every_steps": 1, "keep": 10})), "--out", out, ranks=ranks)
        self.assertEqual(done.returncode, 0, done.stderr)
        return out

    def test_killed_anywhere_and_resumed_the_bits_are_the_same(self):
        whole = self.whole(1)
        for fault in ["worker.step:1", "worker.step:4", "ckpt.after_adapter:1", "ckpt.before_manifest:3", "ckpt.before_rename:2",
                      "ckpt.after_rename:3", "ckpt.before_parent_sync:5"]:
            with self.subTest(fault):
                out = self.interrupted(fault, 1)
                self.assertEqual(self.final(out, 6), self.final(whole, 6))
                self.assertEqual(self.losses(out), self.losses(whole))

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_the_same_holds_for_two_ranks(self):
        whole = self.whole(2)
        out = self.interrupted("worker.step:3", 2)
        self.assertEqual(self.final(out, 6), self.final(whole, 6))
        self.assertEqual(self.losses(out), self.losses(whole))

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_on_another_number_of_ranks_the_losses_agree_to_rounding(self):
        """CKPT-8."""
        whole, job = self.whole(1), self.write(train_job(checkpoint={"every_steps": 1, "keep": 10}))
        resumed = self.run_worker(job, "--out", self.out, "--resume", whole / "checkpoints" / "step-00000002", ranks=3)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        losses, expected = self.losses(self.out), self.losses(whole)
        self.assertEqual(sorted(losses), [3, 4, 5, 6])
        for step, loss in losses.items():
            self.assertAlmostEqual(loss, expected[step], delta=1e-5 * expected[step])

    def test_a_stop_request_leaves_a_checkpoint_and_85_and_the_rest_follows(self):
        job = self.write(train_job(steps=3000, checkpoint={"keep": 2}))
        process = self.start_worker(job, "--out", self.out)
        self.wait_for("step")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=30), 85)
        done = self.journal()[-1]
        self.assertEqual(done["outcome"], "stopped")
        newest = max((self.out / "checkpoints").glob("step-*"))
        self.assertEqual(int(newest.name[5:]), done["steps"])
        self.assertLess(done["steps"], 3000)

    def test_usr1_makes_a_checkpoint_and_the_run_goes_on(self):
        process = self.start_worker(self.write(train_job(steps=3000, checkpoint={"keep": 2})), "--out", self.out)
        self.wait_for("step")
        process.send_signal(signal.SIGUSR1)
        self.assertLess(self.wait_for("checkpoint")[0]["step"], 3000)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=30), 85)

    def test_a_checkpoint_holds_what_peft_wants(self):
        out = self.whole(1)
        folder = out / "checkpoints" / "step-00000006"
        config = json.loads((folder / "adapter_config.json").read_text())
        self.assertEqual((config["peft_type"], config["r"], config["ensure_weight_tying"]), ("LORA", 3, True))
        header, data = safetensors(folder / "adapter_model.safetensors")
        spans = [header[f"base_model.model.{name}.weight"]["data_offsets"] for name in ("model.embed_tokens", "lm_head")]
        self.assertEqual(data[slice(*spans[0])], data[slice(*spans[1])])
        given = json.loads((CASES / "s2-packed-gqa-tied" / "adapter" / "adapter_config.json").read_text())
        for member in "target_modules modules_to_save".split():
            self.assertEqual(sorted(config[member]), sorted(given[member]))
        self.assertEqual(config["rank_pattern"], given["rank_pattern"])
        started, _ = safetensors(CASES / "s2-packed-gqa-tied" / "adapter" / "adapter_model.safetensors")
        self.assertEqual({key: entry["shape"] for key, entry in header.items() if key != "__metadata__"},
                         {key: entry["shape"] for key, entry in started.items() if key != "__metadata__"})

    def test_a_checkpoint_of_another_job_is_refused(self):
        whole = self.whole(1)
        other = train_job()
        other["context"] = {**other["context"], "attention": {"type": "dense"}}
        done = self.run_worker(self.write(other), "--out", self.out, "--resume", whole / "checkpoints")
        self.refused(done, 65, "/context/attention", "s2", "dense")


if __name__ == "__main__":
    unittest.main()
