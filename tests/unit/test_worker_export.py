#!/usr/bin/env python3
"""Exports and generated texts as users of longhaul-worker meet them: from a trained checkpoint, over ranks, when files are damaged,
stopped or killed.

Uses the program in $LONGHAUL_BIN and the golden cases in tests/golden/cases as models and data.
"""
import hashlib
import json
import os
import shutil
import signal
import struct
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_worker import CASES, NO_MPI, WorkerTest, byte_tokenizer, safetensors, train_job

CASE = CASES / "s2-packed-gqa-tied"


def export_job(adapter=CASE / "adapter", base=CASE / "model", context=None, **members):
    job = {"kind": "export", "model": {"base": str(base)}, "export": {"dtype": "f32", **members}}
    if adapter:
        job["model"]["adapter"] = str(adapter)
    return {**job, "context": context} if context else job


class Exports(WorkerTest):
    def result(self):
        return self.journal()[-1]["result"]["export"]

    def halted(self, job):
        """A worker that has written its files and not yet read them."""
        process = self.start_worker(self.write(job), "--out", self.out, LONGHAUL_FAULT="export.written:stop")
        deadline = time.monotonic() + 30
        while Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), deadline, "the worker does not come to the point")
            time.sleep(0.01)
        return process, self.out / "export.tmp"

    def damaged(self, job, damage, *words):
        """Nothing is left, and the journal says what differs."""
        process, tmp = self.halted(job)
        damage(tmp)
        process.send_signal(signal.SIGCONT)
        self.assertEqual(process.wait(timeout=60), 70)
        error = [event for event in self.journal() if event["type"] == "error"][-1]
        self.assertEqual(error["code"], "internal")
        for word in words:
            self.assertIn(word, error["text"])
        self.assertEqual([path.name for path in self.out.glob("export*")], [])

    def test_a_checkpoint_is_exported_with_the_positions_it_was_trained_with(self):
        done = self.run_worker(self.write(train_job()), "--out", self.dir / "train")
        self.assertEqual(done.returncode, 0, done.stderr)
        checkpoint = self.dir / "train" / "checkpoints" / "step-00000006"
        job = self.write(export_job(checkpoint))
        plan = json.loads(self.run_worker(job, "--plan").stdout)
        self.assertTrue(plan["ok"], plan)
        self.assertEqual(plan["rope"]["factor"], 2)
        done = self.run_worker(job, "--out", self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        config = json.loads((self.out / "export" / "config.json").read_text())
        self.assertEqual((config["rope_parameters"]["rope_type"], config["rope_parameters"]["factor"]), ("linear", 2))
        self.assertEqual((config["max_position_embeddings"], config["tie_word_embeddings"]), (40, True))
        self.assertLess(self.result()["check"]["logit_error"], 1e-5)
        manifest = json.loads((self.out / "export" / "manifest.json").read_text()) # CKPT-6, CKPT-22
        self.assertEqual((manifest["kind"], manifest["about"]["format"]), ("export", "hf"))
        for file in manifest["files"]:
            digest = hashlib.sha256((self.out / "export" / file["name"]).read_bytes()).hexdigest()
            self.assertEqual(digest, file["sha256"])
        # The embedding that was trained is the one in the file, and the head is it.
        header, data = safetensors(self.out / "export" / "model.safetensors")
        trained, values = safetensors(checkpoint / "adapter_model.safetensors")
        span = header["model.embed_tokens.weight"]["data_offsets"]
        was = trained["base_model.model.model.embed_tokens.weight"]["data_offsets"]
        self.assertEqual(data[slice(*span)], values[slice(*was)])
        self.assertNotIn("lm_head.weight", header)

    def test_another_scaling_than_the_checkpoints_is_refused(self):
        done = self.run_worker(self.write(train_job(steps=2)), "--out", self.dir / "train")
        self.assertEqual(done.returncode, 0, done.stderr)
        job = export_job(self.dir / "train" / "checkpoints" / "step-00000002", context={"rope": {"factor": 4}})
        self.refused(self.run_worker(self.write(job), "--out", self.out), 64, "/context/rope", "checkpoint")
        self.assertFalse((self.out / "export").exists())

    def test_a_weight_that_was_written_wrong_is_named(self):
        def damage(tmp):
            header, data = safetensors(tmp / "model.safetensors")
            begin = header["model.layers.1.self_attn.v_proj.weight"]["data_offsets"][0] + 4 * 23
            whole = bytearray((tmp / "model.safetensors").read_bytes())
            at = len(whole) - len(data) + begin
            whole[at:at + 4] = struct.pack("<f", struct.unpack("<f", whole[at:at + 4])[0] + 1e-3)
            (tmp / "model.safetensors").write_bytes(whole)
        self.damaged(export_job(), damage, "model.layers.1.self_attn.v_proj.weight[1,3]")

    def test_positions_that_were_written_wrong_are_noticed(self):
        def damage(tmp):
            config = json.loads((tmp / "config.json").read_text())
            config["rope_parameters"]["factor"] = 3
            (tmp / "config.json").write_text(json.dumps(config))
        self.damaged(export_job(context={"length": 40}), damage, "positions")

    def test_a_config_that_changes_the_numbers_is_noticed_by_the_logits(self):
        def damage(tmp):
            config = json.loads((tmp / "config.json").read_text())
            config["rms_norm_eps"] = 1e-2
            (tmp / "config.json").write_text(json.dumps(config))
        self.damaged(export_job(), damage, "logits")

    def test_an_export_that_cannot_be_read_is_no_export(self):
        for format in "hf", "gguf":
            def damage(tmp):
                path = next(tmp.glob("model.*"))
                path.write_bytes(path.read_bytes()[:-40])
            self.damaged(export_job(format=format), damage, "cannot be read again")

    def test_a_tokenizer_that_gives_other_ids_is_noticed(self):
        shutil.copytree(CASE / "model", self.dir / "model")
        tokenizer = byte_tokenizer()
        (self.dir / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))

        def damage(tmp):
            vocab = tokenizer["model"]["vocab"]
            vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
            (tmp / "tokenizer.json").write_text(json.dumps(tokenizer))
        self.damaged(export_job(base=self.dir / "model"), damage, "other ids")

    def test_a_killed_export_leaves_none_and_the_next_attempt_is_whole(self):
        job = self.write(export_job())
        for point in "export.written", "export.before_rename":
            done = self.run_worker(job, "--out", self.out, LONGHAUL_FAULT=point)
            self.assertEqual(done.returncode, -signal.SIGKILL)
            self.assertFalse((self.out / "export").exists())
        for attempt in range(2): # the second replaces the first
            done = self.run_worker(job, "--out", self.out)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([path.name for path in self.out.glob("export*")], ["export"])

    def test_a_stop_request_ends_an_export_with_85(self):
        process, tmp = self.halted(export_job())
        (self.out / "stop").touch()
        process.send_signal(signal.SIGCONT)
        self.assertEqual(process.wait(timeout=30), 85)
        self.assertEqual(self.journal()[-1]["outcome"], "stopped")
        self.assertFalse(tmp.exists())

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_more_ranks_than_one_wait_for_the_first(self):
        done = self.run_worker(self.write(export_job(format="gguf", dtype="f16")), "--out", self.out, ranks=2)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(os.listdir(self.out / "export")), ["manifest.json", "model.gguf"])
        self.assertEqual([self.journal(rank)[-1]["outcome"] for rank in range(2)], ["done"] * 2)

    def test_a_base_without_a_tokenizer_is_exported_with_a_warning(self):
        """CKPT-25, EVENT-14."""
        done = self.run_worker(self.write(export_job()), "--out", self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([event["code"] for event in self.journal() if event["type"] == "warning"], ["no_tokenizer"])
        self.assertFalse(self.result()["tokenizer"])

    def test_too_little_memory_for_fp32_is_compared_in_bf16_and_too_little_for_that_is_refused(self):
        job = export_job()
        plan = json.loads(self.run_worker(self.write(job), "--plan").stdout)
        job["limits"] = {"memory_bytes": plan["bytes_per_rank"] - 1}
        done = self.run_worker(self.write(job), "--out", self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.result()["check"]["precision"], "bf16")
        job["limits"] = {"memory_bytes": plan["bytes_per_rank"] // 10}
        self.refused(self.run_worker(self.write(job), "--out", self.out), 64, "/limits/memory_bytes")


class Texts(WorkerTest):
    def setUp(self):
        super().setUp()
        shutil.copytree(CASE / "model", self.dir / "model")
        tokenizer = byte_tokenizer()
        tokenizer["model"]["vocab"] = {letter: 3 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz\u0120,.")}
        (self.dir / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
        self.job = {"kind": "generate", "precision": "fp32", "model": {"base": str(self.dir / "model"), "adapter": str(CASE / "adapter")},
                    "context": {"length": 400},
                    "generate": {"prompts": ["once upon a time", "the", "a, b. c", "x", "to be or not to be"], "max_tokens": 25,
                                 "temperature": 0.9, "top_p": 0.9, "seed": 12}}

    def texts(self, job, out="out", ranks=1):
        done = self.run_worker(self.write(job), "--out", self.dir / out, ranks=ranks)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.journal(out=self.dir / out)[-1]["result"]["texts"], done.stdout

    def test_texts_are_in_the_journal_the_file_and_the_log(self):
        texts, stdout = self.texts(self.job)
        lines = [json.loads(line) for line in (self.out / "texts.jsonl").read_text().splitlines()]
        self.assertEqual([line.pop("prompt") for line in lines], self.job["generate"]["prompts"])
        self.assertEqual(lines, texts)
        for text in texts:
            self.assertIn("[>]" + text["text"], stdout)
            self.assertEqual(text["ended"] == "max_tokens", text["tokens"] == 25)
        self.assertGreater(len({text["text"] for text in texts}), 3)
        phases = [event for event in self.journal() if event["type"] == "phase" and event["name"] == "generate"]
        self.assertEqual(phases[-1]["done"], phases[-1]["of"])

    @unittest.skipIf(NO_MPI, "built without MPI")
    def test_any_number_of_ranks_writes_the_same_texts(self):
        alone, _ = self.texts(self.job)
        for ranks in 2, 3:
            self.assertEqual(self.texts(self.job, f"out-{ranks}", ranks)[0], alone)

    def test_the_merged_export_writes_what_base_and_adapter_write(self):
        apart, _ = self.texts(self.job)
        for format in "hf", "gguf":
            self.out = self.dir / format
            export = export_job(base=self.dir / "model", context={"length": 400}, format=format)
            done = self.run_worker(self.write(export), "--out", self.out)
            self.assertEqual(done.returncode, 0, done.stderr)
            merged = {**self.job, "model": {"base": str(self.out / "export")}}
            self.assertEqual(self.texts(merged, f"{format}-texts")[0], apart)

    def test_a_plan_counts_the_cache_of_the_longest_text(self):
        plan = json.loads(self.run_worker(self.write(self.job), "--plan").stdout)
        self.assertTrue(plan["ok"], plan)
        longest = len("to be or not to be") + 25
        self.assertEqual(plan["bytes"]["cache"], 2 * ((2 * longest * 3 * 8 * 4 + 63) // 64 * 64))
        self.job["limits"] = {"memory_bytes": plan["bytes_per_rank"] - 1}
        answer = json.loads(self.run_worker(self.write(self.job), "--plan").stdout)
        self.assertEqual((answer["ok"], answer["pointer"]), (False, "/limits/memory_bytes"))

    def test_a_prompt_without_a_token_is_named_by_the_preflight(self):
        self.job["generate"]["prompts"] = ["fine", "123"]
        answer = json.loads(self.run_worker(self.write(self.job), "--plan").stdout)
        self.assertEqual((answer["ok"], answer["code"], answer["pointer"]), (False, "bad_job", "/generate/prompts/1"))

    def test_a_stop_request_ends_it_with_85(self):
        self.job["generate"] = {"prompts": ["once"], "max_tokens": 1048576, "temperature": 5}
        del self.job["context"]
        config = json.loads((self.dir / "model" / "config.json").read_text())
        (self.dir / "model" / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
        process = self.start_worker(self.write(self.job), "--out", self.out)
        self.wait_for("phase")
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=30), 85)
        self.assertEqual(self.journal()[-1]["outcome"], "stopped")
        self.assertEqual([event["code"] for event in self.journal() if event["type"] == "warning"], ["beyond_context"])


if __name__ == "__main__":
    unittest.main()
