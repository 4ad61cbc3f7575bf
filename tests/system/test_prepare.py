"""Preparing much text: streamed, so that memory does not grow with the data; fast; told in figures; never done twice."""
import glob
import gzip
import json
import os
import pathlib
import subprocess
import sys

import longhaul
import pytest

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

TEXT_BYTES = 300_000_000
MEMORY_BYTES = 100_000_000  # tokenizer, units in flight, a cache of words for each thread
BYTES_PER_CPU_SECOND = 5_000_000

# argv: a command. Runs it and prints its peak of memory in bytes and its cpu-seconds. From a small process, because a program is also
# charged with the memory of the one that it was forked from.
MEASURE = r"""
import os, resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def model():
    return longhaul.real_model()


@pytest.fixture(scope="module")
def documents():
    """Perl's documentation, some 18 MB of prose and code."""
    text = b"\n".join(pathlib.Path(path).read_bytes() for path in sorted(glob.glob("/usr/share/perl/*/pod/*.pod")))
    if len(text) < 5_000_000:
        pytest.skip("perl-doc is not installed")
    return text.decode("utf-8", errors="replace")


def prepare(tmp_path, model, files):
    """-> (result of the list, bytes of memory at the peak, cpu-seconds)."""
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"kind": "prepare", "model": {"base": str(model)}, "data": {"train": [str(file) for file in files]}}))
    done = subprocess.run([sys.executable, "-c", MEASURE, str(longhaul.BIN / "longhaul-worker"), str(job), "--out", str(tmp_path / "out")],
                          capture_output=True, text=True, timeout=500, env={**os.environ, "LONGHAUL_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 0, done.stderr
    memory, seconds = map(float, done.stdout.split())
    lines = (tmp_path / "out/events/rank-0.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["result"]["train"], memory, seconds


def test_data_larger_than_the_memory_that_is_used_is_prepared_in_a_stream_and_once(tmp_path, model, documents):
    size, n, lines = 0, 0, tmp_path / "lines.jsonl.gz"
    with open(tmp_path / "one.txt", "w", encoding="utf-8") as plain, gzip.open(lines, "wt", compresslevel=1, encoding="utf-8") as packed:
        while size < TEXT_BYTES:  # one document of two thirds, and lines of a third
            n += 1
            plain.write(f"part {n} begins here\n{documents}")
            size += len(documents.encode())
            if n % 3 == 0:
                for at in range(0, len(documents), 5000):
                    packed.write(json.dumps({"text": f"{n} {documents[at:at + 5000]}"}) + "\n")
                    size += 5000
    files = [tmp_path / "one.txt", lines]
    result, memory, seconds = prepare(tmp_path, model, files)
    print(f"{size / 1e6:.0f} MB of text: {memory / 1e6:.0f} MB of memory, {size / seconds / 1e6:.1f} MB a cpu-second, {result}")
    assert memory < MEMORY_BYTES
    assert size / seconds >= BYTES_PER_CPU_SECOND
    assert result["documents_per_s"] > 0 and result["bytes_per_s"] > 0 and result["resumed_bytes"] == 0
    assert result["tokens"] * 4 > MEMORY_BYTES  # what was written is larger, too

    again, _, less = prepare(tmp_path, model, files)
    assert again["tokens"] == result["tokens"] and "bytes_per_s" not in again  # found, not made
    assert less < seconds / 3
