#!/usr/bin/env python3
"""What must not stop or change training: kills at random instants, a full disk, numbers that are not finite; and inputs that
are taken away under a running job.

Uses the program in $LONGHAUL_BIN and the golden cases in tests/golden/cases as models and data. $LONGHAUL_KILLS: how many kills
(0 unless given); $LONGHAUL_TEST_SEED: which.
"""
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_worker import CASES, NO_MPI, letter_tokenizer, safetensors, train_job
from test_worker_train import Trains, write_tokens

KILLS = int(os.environ.get("LONGHAUL_KILLS", 0))
POINTS = ("ckpt.after_adapter", "ckpt.before_manifest", "ckpt.before_rename", "ckpt.after_rename", "ckpt.before_parent_sync", "worker.step")


def digests(out, step):
    folder = out / "checkpoints" / f"step-{step:08d}"
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("adapter_model.safetensors", "optimizer.safetensors")]


def state_of(out, step):
    return json.loads((out / "checkpoints" / f"step-{step:08d}" / "state.json").read_text())


class Halts(Trains):
    def halted(self, job, *args, at="worker.step:1", ranks=1, out=None):
        """A worker that stands still after a step, as a debugger would hold it."""
        process = self.start_worker(self.write(job), "--out", out or self.out, *args, ranks=ranks, LONGHAUL_FAULT=f"{at}:stop")
        return process, self.wait_halted(process)

    def wait_halted(self, process):
        deadline = time.monotonic() + 60
        while not (halted := [pid for pid in self.workers(process) if self.stands(pid)]):
            self.assertIsNone(process.poll(), "it ended before it halted")
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        return halted

    def workers(self, process):
        """The process itself, or the ranks that it (mpirun) has started."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            return [int(pid) for pid in children.read_text().split()] or [process.pid]
        except OSError:
            return []

    def stands(self, pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
        except OSError:
            return False


class NotFinite(Trains):
    """The last token of the vocabulary has an embedding that is no number: steps with it in their data are lost."""
    BAD = 20

    def job(self, steps, **policy):
        """steps: a letter each, "x" for one with the token; equal letters are equal data."""
        base = self.dir / "model"
        if not base.exists():
            shutil.copytree(CASES / "dropout" / "model", base)
            entry = safetensors(base / "model.safetensors")[0]["model.embed_tokens.weight"]
            raw = bytearray((base / "model.safetensors").read_bytes())
            at = 8 + struct.unpack_from("<Q", raw)[0] + entry["data_offsets"][0] + 4 * self.BAD * entry["shape"][1]
            raw[at:at + 4] = struct.pack("<f", float("nan"))
            (base / "model.safetensors").write_bytes(raw)
            config = json.loads((base / "config.json").read_text())
            (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
            self.untie(base / "model.safetensors")
        rows = []
        for letter in steps:
            draw = random.Random(letter)
            rows.append([draw.randrange(self.BAD) for _ in range(24)])
            rows[-1][7] = self.BAD if letter == "x" else rows[-1][7]
        tokens = write_tokens(self.dir / f"{steps}.safetensors", rows)
        return {"kind": "train", "precision": "fp32", "model": {"base": str(base)}, "data": {"train": [tokens], "format": "tokens"},
                "context": {"length": 24, "attention": {"type": "s2", "group": 8}},
                "adapter": {"rank": 2, "alpha": 4, "embeddings": False, "norms": True}, "checkpoint": {"every_steps": 1, "keep": 10},
                "optim": {"lr": 0.01, "warmup_steps": 0, "steps": len(steps), "batch_sequences": 1}, "on_nonfinite": policy}

    def untie(self, path):
        """A head of its own, so that the token's row is met through the data alone."""
        header, data = safetensors(path)
        rows, columns = header["model.embed_tokens.weight"]["shape"]
        draw = random.Random(3)
        head = struct.pack(f"<{rows * columns}f", *(draw.gauss(0, 0.3) for _ in range(rows * columns)))
        header["lm_head.weight"] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [len(data), len(data) + len(head)]}
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data + head)

    def warnings(self, out):
        return [event for event in self.journal(out=out) if event["type"] == "warning"]

    def test_stop_names_step_and_tensor_and_applies_nothing(self): # JOB-49
        done = self.run_worker(self.write(self.job("abxc", action="stop")), "--out", self.out)
        self.refused(done, 86, "step 3", "'model.embed_tokens.weight'", f"element {self.BAD * 16}")
        self.assertEqual(sorted(path.name for path in (self.out / "checkpoints").iterdir()), ["step-00000001", "step-00000002"])

    def test_skipped_steps_are_as_if_their_data_had_not_been_there(self): # JOB-49
        skipped = self.train(self.job("xabxcx", action="skip", budget=3), "skipped")
        clean = self.train(self.job("abc", action="stop"), "clean")
        self.assertEqual(digests(skipped, 6), digests(clean, 3))
        self.assertEqual([event["loss"] for event in self.steps(skipped) if event["loss"] is not None],
                         [event["loss"] for event in self.steps(clean)])
        self.assertEqual([event["step"] for event in self.steps(skipped) if event["loss"] is None], [1, 4, 6])
        self.assertEqual([event["code"] for event in self.warnings(skipped)], ["nonfinite_skipped"] * 3)
        for step, event in zip((1, 4, 6), self.warnings(skipped)):
            self.assertRegex(event["text"], f"^step {step}: .*'model.embed_tokens.weight' at element {self.BAD * 16}; the step was passed over$")
        self.assertEqual(state_of(skipped, 6)["skipped"], 3)

    def test_the_budget_is_for_all_attempts_together(self): # JOB-49
        job = self.job("axbxc", action="skip", budget=1)
        self.refused(self.run_worker(self.write(job), "--out", self.dir / "whole"), 86, "step 4")
        killed = self.run_worker(self.write(job), "--out", self.out, LONGHAUL_FAULT="worker.step:3")
        self.assertEqual(killed.returncode, -9)
        resumed = self.run_worker(self.write(job), "--out", self.out, "--resume", self.out / "checkpoints")
        self.refused(resumed, 86, "step 4")

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_ranks_agree_on_what_is_skipped(self): # one rank alone meets the token
        job = self.job("axbc", action="skip", budget=1)
        job["optim"].update(steps=2, batch_sequences=2)
        out = self.train(job, "two", ranks=2)
        self.assertEqual([event["loss"] is None for event in self.steps(out)], [True, False])
        self.assertEqual(state_of(out, 2)["skipped"], 1)


class LostInputs(Halts):
    """EVENT-18."""

    def ends(self, process, halted, name, ranks=1):
        for pid in halted:
            os.kill(pid, signal.SIGCONT)
        self.assertEqual(process.wait(timeout=60), 65)
        told = [events[-2:] for events in map(self.journal, range(ranks)) if events[-1]["type"] == "done" and len(events) > 1]
        error, done = next(two for two in told if two[0]["type"] == "error")
        self.assertEqual((error["code"], error["exit"], done["outcome"], done["exit"]), ("bad_input", 65, "failed", 65))
        self.assertIn(name, error["text"])
        self.assertIn("became shorter", error["text"])

    def tokens_job(self):
        draw = random.Random(1)
        rows = [[draw.randrange(21) for _ in range(24)] for _ in range(300)]
        job = train_job("dropout", steps=90, data={"train": [write_tokens(self.dir / "t.safetensors", rows)], "format": "tokens"})
        return job, self.dir / "t.safetensors"

    def test_a_tokens_file_that_shrinks_is_named(self):
        job, tokens = self.tokens_job()
        process, halted = self.halted(job)
        os.truncate(tokens, 4096)
        self.ends(process, halted, "t.safetensors")

    def test_a_prepared_shard_that_shrinks_is_named(self):
        shutil.copytree(CASES / "full-dense-yarn" / "model", self.dir / "model")
        (self.dir / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer()))
        (self.dir / "text.txt").write_text("a longer text of which little fits a page\n" * 500)
        job = {**train_job("full-dense-yarn", steps=90), "model": {"base": str(self.dir / "model")},
               "data": {"train": [str(self.dir / "text.txt")], "pack": False}}
        process, halted = self.halted(job)
        shard, = (self.dir / "cache").glob("**/tokens-00000.bin")
        os.truncate(shard, 4096)
        self.ends(process, halted, "tokens-00000.bin")

    def test_a_plan_names_a_file_that_shrinks_under_it(self):
        job, tokens = self.tokens_job()
        process = self.start_worker(self.write(job), "--plan", stdout=subprocess.PIPE, LONGHAUL_FAULT="tokens.opened:1:stop")
        pid, = self.wait_halted(process)
        os.truncate(tokens, 4096)
        os.kill(pid, signal.SIGCONT)
        told, _ = process.communicate(timeout=60)
        answer = json.loads(told)
        self.assertEqual((process.returncode, answer["ok"], answer["code"], answer["class"]), (0, False, "bad_input", "app"))
        self.assertIn("t.safetensors", answer["detail"])
        self.assertIn("became shorter", answer["detail"])

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_the_other_ranks_end_too(self):
        job, tokens = self.tokens_job()
        process, halted = self.halted(job, ranks=2)
        os.truncate(tokens, 4096)
        time.sleep(0.5) # both ranks stand by now
        self.ends(process, [pid for pid in self.workers(process)], "t.safetensors", ranks=2)


class FullDisk(Halts):
    """On a file system of its own, which needs root."""
    STEPS = 200 # the test must get a word in between

    def setUp(self):
        super().setUp()
        self.small = self.dir / "small"
        self.small.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", self.small]).returncode != 0:
            self.skipTest("no file system can be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", self.small], check=True)
        self.job = train_job("dropout", steps=self.STEPS, checkpoint={"every_steps": 1, "keep": 3})

    def fill(self):
        """Leaves half of what a checkpoint needs."""
        one = sum(path.stat().st_size for path in (self.small / "out" / "checkpoints" / "step-00000001").iterdir())
        room = os.statvfs(self.small)
        with open(self.small / "ballast", "wb") as file:
            file.write(bytes(max(0, room.f_bavail * room.f_frsize - one // 2)))

    def start_full(self):
        process, halted = self.halted(self.job, "--events", self.dir / "out" / "events", at="worker.step:1", out=self.small / "out")
        self.fill()
        return process, halted[0]

    def whole(self):
        return digests(self.train({**self.job, "checkpoint": {}}, "whole"), self.STEPS)

    def kept(self):
        return sorted(path.name for path in (self.small / "out" / "checkpoints").iterdir())

    def test_the_job_says_so_and_goes_on_with_the_older_checkpoints(self): # CKPT-11
        process, pid = self.start_full()
        before = digests(self.small / "out", 1)
        os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + 60
        # The last checkpoint must fit: room is made as soon as one has failed.
        while not (failed := [e for e in self.journal() if e["type"] == "warning"]):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.002)
        os.kill(pid, signal.SIGSTOP)
        self.assertEqual((failed[0]["code"], "No space left" in failed[0]["text"]), ("checkpoint_failed", True))
        self.assertEqual([name for name in self.kept() if not name.endswith(".tmp")], ["step-00000001"])
        self.assertEqual(digests(self.small / "out", 1), before)
        (self.small / "ballast").unlink()
        os.kill(pid, signal.SIGCONT)
        self.assertEqual(process.wait(timeout=60), 0)
        self.assertEqual(self.kept(), [f"step-{self.STEPS - i:08d}" for i in (2, 1, 0)])
        self.assertEqual(digests(self.small / "out", self.STEPS), self.whole())

    def test_without_room_for_the_last_one_the_attempt_fails_and_may_be_tried_again(self): # CKPT-11
        process, pid = self.start_full()
        before = digests(self.small / "out", 1)
        os.kill(pid, signal.SIGCONT)
        self.assertEqual(process.wait(timeout=60), 75)
        self.assertEqual(self.kept(), ["step-00000001"])
        self.assertEqual(digests(self.small / "out", 1), before)
        self.assertEqual((self.journal()[-2]["code"], self.journal()[-1]["exit"]), ("io", 75))
        (self.small / "ballast").unlink()
        resumed = self.run_worker(self.write(self.job), "--out", self.small / "out", "--resume", self.small / "out" / "checkpoints")
        self.assertEqual(resumed.returncode, 0, resumed.stderr)
        self.assertEqual(digests(self.small / "out", self.STEPS), self.whole())


@unittest.skipIf(KILLS == 0, "LONGHAUL_KILLS is not given")
class Kills(Halts):
    """CKPT-10, CKPT-21."""
    STEPS = 12

    def setUp(self):
        super().setUp()
        self.seed = int(os.environ.get("LONGHAUL_TEST_SEED", 20261122))
        self.draw = random.Random(self.seed)
        self.job = train_job("dropout", steps=self.STEPS, checkpoint={"every_steps": 1, "keep": 3})

    def seen(self, out):
        """step -> every loss that any attempt reported for it."""
        losses = {}
        for event in self.steps(out):
            losses.setdefault(event["step"], set()).add(event["loss"])
        return losses

    def kill_at_random(self, out, ranks, span):
        """Ends a run without a warning: after a random time, or at a random pass of a point in a checkpoint. -> what was done"""
        if self.draw.random() < 0.5:
            fault = f"{self.draw.choice(POINTS)}:{self.draw.randint(1, self.STEPS - 1)}"
            self.run_worker(self.write(self.job), "--out", out, ranks=ranks, LONGHAUL_FAULT=fault)
            return fault
        process = self.start_worker(self.write(self.job), "--out", out, ranks=ranks)
        after = self.draw.uniform(0, span)
        time.sleep(after)
        workers = self.workers(process)
        if process.poll() is None and workers:
            try:
                os.kill(self.draw.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                pass # it was faster
        process.wait(timeout=60)
        return f"after {after:.3f} s"

    def resume(self, out, ranks):
        args = ["--resume", out / "checkpoints"] if list((out / "checkpoints").glob("step-*/manifest.json")) else []
        resumed = self.run_worker(self.write(self.job), "--out", out, *args, ranks=ranks)
        self.assertEqual(resumed.returncode, 0, resumed.stderr)

    def test_killed_at_random_instants_the_bits_are_the_same(self):
        wholes, landed = {}, 0
        for ranks in (1,) if NO_MPI else (1, 2):
            began = time.monotonic()
            wholes[ranks] = self.train(self.job, f"whole-{ranks}", ranks=ranks), time.monotonic() - began
        for number in range(KILLS):
            ranks = self.draw.choice(list(wholes))
            whole, span = wholes[ranks]
            out = self.dir / f"killed-{number}"
            what = self.kill_at_random(out, ranks, span)
            landed += not (out / "checkpoints" / f"step-{self.STEPS:08d}" / "manifest.json").exists()
            with self.subTest(number=number, seed=self.seed, ranks=ranks, killed=what):
                self.resume(out, ranks)
                self.assertEqual(digests(out, self.STEPS), digests(whole, self.STEPS))
                self.assertEqual(self.seen(out), self.seen(whole))
                self.assertEqual(state_of(out, self.STEPS)["tokens"], state_of(whole, self.STEPS)["tokens"])
            shutil.rmtree(out)
        self.assertGreaterEqual(landed, KILLS // 2, "most kills came too late to count")

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_resumed_on_other_ranks_the_data_is_the_same_and_losses_agree_to_rounding(self):
        whole = self.train(self.job, "whole")
        expected = self.seen(whole)
        for number in range(max(2, KILLS // 5)):
            before, after = self.draw.sample((1, 2, 3), 2)
            out = self.dir / f"moved-{number}"
            self.run_worker(self.write(self.job), "--out", out, ranks=before,
                            LONGHAUL_FAULT=f"worker.step:{self.draw.randint(1, self.STEPS - 1)}")
            with self.subTest(number=number, seed=self.seed, before=before, after=after):
                self.resume(out, after)
                for step, losses in self.seen(out).items():
                    for loss in losses:
                        self.assertAlmostEqual(loss, *expected[step], delta=1e-5 * loss)
                self.assertEqual(state_of(out, self.STEPS)["data"], state_of(whole, self.STEPS)["data"])
                one, two = self.trained(out, self.STEPS), self.trained(whole, self.STEPS)
                for key, values in two.items():
                    largest = max(map(abs, values))
                    self.assertLess(max(abs(a - b) for a, b in zip(values, one[key])), 2e-4 * largest, key)


if __name__ == "__main__":
    unittest.main()
