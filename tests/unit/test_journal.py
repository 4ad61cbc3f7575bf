#!/usr/bin/env python3
"""Journals and checkpoint directories of longhaul-worker, held against the pages events.md and checkpoint.md.

Uses the program in $LONGHAUL_BIN and the golden cases in tests/golden/cases as models and data.
"""
import json
import math
import resource
import shutil
import signal
import struct
import subprocess
import unittest

from test_worker import CASES, NO_MPI, WORKER, WorkerTest, byte_tokenizer, safetensors, train_job

TIED, FULL = "s2-packed-gqa-tied", "full-dense-yarn"
PHASES = "loading prepare train eval check export checking generate checkpoint done".split()
UNITS = "tokens bytes windows tensors steps seconds".split()


def of(events, kind):
    return [event for event in events if event["type"] == kind]


class Journal(WorkerTest):
    def trained(self, job, *args, out=None, ranks=1, **more):
        out = out or self.out
        done = self.run_worker(self.write(job), "--out", out, *args, ranks=ranks, **more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.journal(out=out)

    def test_a_runs_lines_come_in_order_with_their_members(self):
        """EVENT-6, 7, 8, 9, 10, 11."""
        events = self.trained(train_job())
        self.assertEqual((events[0]["type"], events[-1]["type"]), ("start", "done"))
        start, steps = events[0], of(events, "step")
        self.assertEqual((start["resume_step"], start["steps"], start["ranks"]), (0, 6, 1))
        self.assertGreater(start["parameters"], start["trainable"])
        plan = json.loads(self.run_worker(self.dir / "job.json", "--plan").stdout)
        self.assertEqual(start["plan"]["parts"], plan["bytes"])
        for member in "bytes_per_rank flops_per_step parameters trainable".split():
            self.assertEqual(start["plan"][member], plan[member])
        self.assertEqual([step["step"] for step in steps][-1], 6)
        self.assertEqual(steps[0]["step"], 1)
        for step in steps:
            self.assertEqual(step["of"], 6)
            self.assertGreaterEqual(step["step_s"], step["data_s"])
            self.assertTrue(math.isfinite(step["loss"]) and step["grad_norm"] > 0)
        for phase in of(events, "phase"):
            self.assertIn(phase["name"], PHASES)
            self.assertIn(phase["unit"], UNITS)
            self.assertLessEqual(phase["done"], phase["of"])
        last = {phase["name"]: phase for phase in of(events, "phase")}
        self.assertEqual(last["train"]["done"], last["train"]["of"])

    def test_the_loss_of_a_step_is_that_before_its_update_over_all_rows(self):
        """EVENT-11: as the golden case expects it, and its tokens."""
        given = json.loads((CASES / TIED / "case.json").read_text())
        header, data = safetensors(CASES / TIED / "expected.safetensors")
        begin, end = header["loss"]["data_offsets"]
        want = memoryview(data[begin:end]).cast("f")
        header, _ = safetensors(CASES / TIED / "batch.safetensors")
        for step, loss in zip(of(self.trained(train_job(steps=given["optim"]["steps"])), "step"), want, strict=True):
            self.assertAlmostEqual(step["loss"], loss, delta=1e-4 * loss)
            self.assertEqual(step["tokens"], math.prod(header["input_ids"]["shape"][1:]))

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_only_rank_0_reports_steps_and_every_rank_starts_and_ends(self):
        """EVENT-6, 8."""
        self.trained(train_job(), ranks=2)
        other = self.journal(1)
        self.assertEqual((other[0]["type"], other[-1]["type"]), ("start", "done"))
        self.assertEqual((of(other, "step"), of(other, "checkpoint")), ([], []))
        self.assertNotIn("plan", other[0])

    def test_a_killed_run_has_no_done_and_a_number_that_is_not_finite_is_null(self):
        """EVENT-6, 7."""
        killed = self.run_worker(self.write(train_job()), "--out", self.out, LONGHAUL_FAULT="worker.step:3")
        self.assertLess(killed.returncode, 0)
        self.assertEqual(of(self.journal(), "done"), [])
        shutil.copytree(CASES / FULL / "model", self.dir / "model")
        weights = self.dir / "model" / "model.safetensors"
        header, data = safetensors(weights)
        begin, _ = header["model.norm.weight"]["data_offsets"]
        with open(weights, "r+b") as f:
            f.seek(-len(data) + begin, 2)
            f.write(struct.pack("<f", math.nan))
        out = self.dir / "wild"
        job = train_job(FULL, model={"base": str(self.dir / "model")}, on_nonfinite={"action": "skip", "budget": 2})
        job["context"] = {**job["context"], "rope": {**job["context"]["rope"], "skip_check": True}} # which would find it first
        done = self.run_worker(self.write(job), "--out", out)
        self.assertEqual(done.returncode, 86, done.stderr)
        steps = of(self.journal(out=out), "step")
        self.assertEqual([(step["loss"], step["grad_norm"]) for step in steps], [(None, None)] * len(steps))
        self.assertGreaterEqual(len(steps), 2)

    def test_a_checkpoint_is_told_only_once_it_stands(self):
        """CKPT-14, EVENT-13: killed between the rename and the fsync of the parent it has not been told."""
        events = self.trained(train_job(checkpoint={"every_steps": 2, "keep": 10}))
        for event in of(events, "checkpoint"):
            folder = self.out / "checkpoints" / f"step-{event['step']:08d}"
            self.assertEqual(str(folder), event["path"])
            self.assertEqual(sum(file["bytes"] for file in json.loads((folder / "manifest.json").read_text())["files"]), event["bytes"])
            self.assertGreaterEqual(event["stall_s"], 0)
        self.assertEqual([event["step"] for event in of(events, "checkpoint")], [2, 4, 6])
        out = self.dir / "killed"
        self.run_worker(self.write(train_job(checkpoint={"every_steps": 2, "keep": 10})), "--out", out,
                        LONGHAUL_FAULT="ckpt.before_parent_sync:2")
        self.assertEqual([event["step"] for event in of(self.journal(out=out), "checkpoint")], [2])
        self.assertTrue((out / "checkpoints" / "step-00000004" / "manifest.json").exists())

    def test_a_full_disk_costs_a_checkpoint_and_a_warning_and_the_job_goes_on(self):
        """CKPT-11, EVENT-14."""
        before = self.trained(train_job(steps=2), out=self.out)
        kept = self.out / "checkpoints" / "step-00000002"
        size = max(path.stat().st_size for path in kept.iterdir())

        def small_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1))

        job = self.write(train_job(steps=6, checkpoint={"every_steps": 2, "keep": 10}))
        done = subprocess.run([WORKER, job, "--out", str(self.out), "--resume", str(kept)], preexec_fn=small_files, capture_output=True,
                              text=True, timeout=120, env=self.environment({}))
        events = self.journal()[len(before):]
        self.assertEqual([event["code"] for event in of(events, "warning")], ["checkpoint_failed"])
        self.assertIn("step-00000004.tmp", of(events, "warning")[0]["text"])
        self.assertEqual(of(events, "step")[-1]["step"], 6)
        self.assertNotEqual(done.returncode, 0) # without the last one the attempt was for nothing
        self.assertIn("step-00000006.tmp", of(events, "error")[-1]["text"])
        self.assertEqual([path.name for path in (self.out / "checkpoints").iterdir()], [kept.name])

    def test_an_evaluation_has_a_line_with_its_bands(self):
        """EVENT-12."""
        shutil.copytree(CASES / FULL / "model", self.dir / "model")
        tokenizer = byte_tokenizer()
        tokenizer["model"]["vocab"] = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz\u0120")}
        (self.dir / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
        (self.dir / "text.txt").write_text("all work and no play " * 40)
        events = self.trained({"kind": "eval", "model": {"base": str(self.dir / "model")}, "context": {"length": 32, "rope": {"factor": 1}},
                               "eval": {"perplexity": [str(self.dir / "text.txt")]}})
        line, = of(events, "eval")
        self.assertEqual((line["file"], line["length"]), ("", 32))
        self.assertAlmostEqual(math.exp(line["nll"]), line["perplexity"], delta=1e-6 * line["perplexity"])
        self.assertEqual((line["bands"][0]["begin"], line["bands"][-1]["end"]), (0, 32))
        targets = [min(band["end"], 31) - band["begin"] for band in line["bands"]] # the last token has none
        self.assertAlmostEqual(sum(n * band["nll"] for n, band in zip(targets, line["bands"])) / sum(targets), line["nll"], places=6)


class Checkpoints(WorkerTest):
    def checkpoint(self, job):
        done = self.run_worker(self.write(job), "--out", self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.out / "checkpoints" / f"step-{job['optim']['steps']:08d}"

    def test_the_state_says_what_its_numbers_depend_on(self):
        """CKPT-9, 20."""
        job = train_job()
        state = json.loads((self.checkpoint(job) / "state.json").read_text())
        for member in "version step tokens train_seconds last_loss data context head model precision ranks threads device machine job".split():
            self.assertIn(member, state)
        self.assertEqual((state["version"], state["step"], state["ranks"]), (1, 6, 1))
        self.assertEqual(state["data"]["next_sequence"], 6 * state["data"]["batch_sequences"])
        self.assertEqual(state["context"]["rope"]["factor"], 2)
        self.assertEqual(state["job"]["optim"]["betas"], job["optim"].get("betas", [0.9, 0.95]))

    def test_full_fine_tuning_leaves_a_model_instead_of_an_adapter(self):
        """CKPT-7."""
        folder = self.checkpoint(train_job(FULL))
        names = {path.name for path in folder.iterdir()}
        self.assertEqual(names, {"config.json", "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"})
        begun, _ = safetensors(CASES / FULL / "model" / "model.safetensors")
        saved, _ = safetensors(folder / "model.safetensors")
        self.assertEqual({key: entry["shape"] for key, entry in saved.items() if key != "__metadata__"},
                         {key: entry["shape"] for key, entry in begun.items() if key != "__metadata__"})

    def test_what_must_not_change_is_refused_by_name_and_the_rest_may(self):
        """CKPT-18, 19."""
        job = train_job(steps=2)
        folder = self.checkpoint(job)
        length, optim = job["context"]["length"], job["optim"]
        must = {
            "/context/length": {"context": {**job["context"], "length": 2 * length}},
            "/context/rope": {"context": {**job["context"], "rope": {**job["context"]["rope"], "factor": 3}}},
            "/context/attention": {"context": {**job["context"], "attention": {"type": "dense"}}},
            "/adapter": {"adapter": {**job["adapter"], "alpha": job["adapter"]["alpha"] + 1}},
            "/data": {"data": {**job["data"], "pack": False}},
            "/optim/seed": {"optim": {**optim, "seed": 12345}},
            "/optim/batch_sequences": {"optim": {**optim, "batch_sequences": 2 * optim["batch_sequences"]}},
        }
        for number, (pointer, other) in enumerate(must.items()):
            with self.subTest(pointer):
                base = {**job, **other}
                base["model"] = {"base": job["model"]["base"]} # no adapter of another shape to start from
                out = self.dir / f"other-{number}"
                done = self.run_worker(self.write(base), "--out", out, "--resume", folder)
                self.refused(done, 65)
                self.assertTrue(of(self.journal(out=out), "error")[-1]["pointer"].startswith(pointer), done.stderr)
        more = {**job, "model": {"base": job["model"]["base"]}, "optim": {**optim, "steps": 4, "lr": 1e-5}}
        done = self.run_worker(self.write(more), "--out", self.out, "--resume", self.out / "checkpoints")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue((self.out / "checkpoints" / "step-00000004").is_dir())


if __name__ == "__main__":
    unittest.main()
