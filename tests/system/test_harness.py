"""What the tests start does not outlive them."""
import json
import os
import pathlib
import signal
import subprocess
import sys

import longhaul
import pytest

pytestmark = pytest.mark.full

PROGRAM = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import longhaul
c = longhaul.Coordinator(sys.argv[2]).start()
longhaul.wait_until(lambda: c.get("/v1/nodes").json["nodes"], 20)
print(json.dumps([c.process.pid, *longhaul.children_of(c.process.pid)]), flush=True)
time.sleep(600)
"""


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_daemons_end_when_the_test_is_killed(tmp_path):
    test = subprocess.Popen([sys.executable, "-c", PROGRAM, os.path.dirname(longhaul.__file__), str(tmp_path / "state")],
                            stdout=subprocess.PIPE, text=True)
    pids = json.loads(test.stdout.readline())
    assert len(pids) == 2 and all(map(is_alive, pids))  # longhauld and its node
    test.send_signal(signal.SIGKILL)
    test.wait()
    longhaul.wait_until(lambda: not any(map(is_alive, pids)), 10, f"{pids} are gone")
