"""--help says which options there are: each that a program's source takes, and no other."""
import re
import subprocess

import longhaul
import pytest

pytestmark = pytest.mark.quick

SOURCES = {"longhauld": "daemon/coordinator/main.c", "longhaul-node": "daemon/node/options.c", "longhaul-worker": "worker/options.c"}


def run(program, *words):
    return subprocess.run([str(longhaul.BIN / program), *words], capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize("program", SOURCES)
def test_help_names_every_option_and_no_other(program):
    source = (longhaul.ROOT / SOURCES[program]).read_text()
    taken = set(re.findall(r'\{"([a-z0-9-]+)",\s*(?:required|no|optional)_argument', source))
    assert len(taken) > 8
    done = run(program, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(re.findall(r"--([a-z0-9][a-z0-9-]*)", done.stdout)) == taken


@pytest.mark.parametrize("program", ["longhauld", "longhaul-node", "longhaul-shim", "longhaul-worker", "longhaul"])
def test_help_fits_a_terminal_and_unknown_options_are_refused(program):
    done = run(program, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert run(program, "--version").stdout.startswith(f"{program} ")
    done = run(program, "--frobnicate")
    assert done.returncode in (2, 64), done.returncode
    assert "--help" in done.stderr and not done.stdout


@pytest.mark.parametrize("program", ["longhauld", "longhaul-worker"])
def test_help_names_the_exit_codes_that_the_source_gives(program):
    text = run(program, "--help").stdout
    path = {"longhauld": "daemon/coordinator/main.c", "longhaul-worker": "worker/run.h"}[program]
    source = (longhaul.ROOT / path).read_text()
    codes = set(re.findall(r"return (?:fail\(&err, )?(\d\d)\b", source)) | set(re.findall(r"EXIT_\w+ = (\d\d)\b", source))
    assert len(codes) >= 5
    told = set(re.findall(r"\b(\d\d)\b", text[text.index("Exit:"):]))
    assert codes <= told, codes - told
