"""The cache of a node is bounded; live attempts keep what they use (NODE-20)."""
import os
import time

import pytest
from longhaul import wait_until
from test_node import bench  # noqa: F401

pytestmark = pytest.mark.full


def entry(path, used):
    path.mkdir(parents=True)
    (path / "data").write_bytes(b"x" * 200000)
    os.utime(path, (used, used))
    return path


def test_the_longest_unused_leave_the_cache_but_not_what_a_live_attempt_uses(bench):
    b = bench('sleep 4; exit 0', "--cache-max", "100000", "--evict-ms", "200")
    cache = b.state / "cache"
    b.run_to("j1", "running")
    used = entry(cache / "shards" / "used", time.time())  # as its ranks do
    old = entry(cache / "objects" / "old", time.time() - 3600)
    wait_until(lambda: not old.exists(), 10, "the old entry is gone")
    assert used.exists()
    b.c.expect("exited", job="j1")
    b.c.expect("cleaned", job="j1")
    wait_until(lambda: not used.exists(), 10, "nobody uses it any more")
    assert "cache.evicted" in b.node.log.read_text()


def test_checkpoints_that_were_kept_are_not_kept_for_ever(bench):
    b = bench("exit 0", "--kept-days", "2", "--evict-ms", "200")
    new = entry(b.state / "kept" / "j1" / "attempt-2", time.time() - 86400)
    old = entry(b.state / "kept" / "j1" / "attempt-1", time.time() - 3 * 86400)
    wait_until(lambda: not old.exists(), 10, "the old one is gone")
    assert new.exists()
