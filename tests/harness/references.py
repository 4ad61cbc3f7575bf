"""Virtual environments with other people's programs that read what longhaul writes. Made once and kept; a test is skipped, with pip's
own words, where PyPI cannot be reached.

    python = references.python("torch")     # a Python with PyTorch, transformers and PEFT
"""
import fcntl
import os
import pathlib
import subprocess
import sys

import longhaul
import pytest

# name: (environment variable that names one made elsewhere, what pip installs)
SETS = {
    "torch": ("LONGHAUL_PEFT_VENV", ("torch==2.15.0", "transformers==5.23.0", "peft==0.21.2", "safetensors")),
    "gguf": ("LONGHAUL_GGUF_VENV", ("gguf==0.19.0",)),
    "llama-cpp": ("LONGHAUL_LLAMA_CPP_VENV", ("llama-cpp-python==0.3.36",)),
}
# Compiles for a quarter of an hour, so it outlives the build folder.
KEPT = {"llama-cpp": pathlib.Path.home() / ".cache/longhaul"}
# Without -march=native: where a processor says that it has AMX and its host does not give it, that one dies of quantised weights.
COMPILED_WITH = {"llama-cpp": {"CMAKE_ARGS": "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF"}}


def python(name):
    variable, packages = SETS[name]
    path = pathlib.Path(os.environ.get(variable, KEPT.get(name, longhaul.BIN.parent) / f"venv-{name}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as lock:  # several test processes may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path / "ready").exists():
            make(path, packages, COMPILED_WITH.get(name, {}))
    return path / "bin/python"


def make(path, packages, environment):
    steps = [[sys.executable, "-m", "venv", str(path)],
             [str(path / "bin/pip"), "install", "-q", "--disable-pip-version-check", *packages]]
    room = dict(os.environ, TMPDIR=str(path.parent), **environment)  # /tmp is often small and in memory; wheels are gigabytes
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, env=room)
        if done.returncode != 0:
            why = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
            pytest.skip(f"{', '.join(packages)} could not be installed from PyPI: {why}")
    (path / "ready").touch()
