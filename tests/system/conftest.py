"""Fixtures of the system tests. Programs come from build/bin, or from LONGHAUL_BIN_DIR."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "harness"))
import longhaul  # noqa: E402


@pytest.fixture
def standalone(tmp_path):
    """A coordinator with a node of two slots, ready."""
    with longhaul.Coordinator(tmp_path / "state") as c:
        longhaul.wait_until(lambda: any(n["state"] == "up" for n in c.get("/v1/nodes").json["nodes"]), 20, "the node is up")
        yield c
