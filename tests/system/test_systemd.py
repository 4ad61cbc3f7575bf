"""A whole host under systemd, as installed: first start, a job through restarts of both services, the watchdog, the sandbox."""
import json
import os
import re
import shutil
import subprocess

import longhaul
import nspawn
import pytest
from longhaul import check_job, wait_until

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

UNITS = ("longhauld.service", "longhaul-node.service")

def install(root, **env):
    subprocess.run(["cmake", "--install", str(longhaul.BIN.parent), "--prefix", "/usr"], check=True, capture_output=True,
                   env={"DESTDIR": str(root), "PATH": "/usr/bin:/bin", **env})


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """What cmake --install lays down."""
    root = tmp_path_factory.mktemp("tree")
    install(root)
    return root


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    why = nspawn.missing()
    if why:
        pytest.skip(f"no container can be booted here: {why}")
    try:
        nspawn.base_root()
    except RuntimeError as e:
        pytest.skip(f"no Debian root could be made: {e}")
    h = nspawn.Host(tmp_path_factory.mktemp("host"))
    try:
        with h:
            start(h)
            yield h
    except nspawn.CannotBoot as e:
        pytest.skip(f"no container can be booted here: {e}")


def start(h):
    install(h.root)
    # The one thing that an administrator changes here: two slots, and a name.
    env = h.root / "etc/longhaul/node.env"
    env.write_text(re.sub(r'^LONGHAUL_NODE_ARGS="', r'\g<0>--slots 2 --name here ', env.read_text(), flags=re.M))
    h.boot()
    h.run("systemctl", "start", *UNITS, timeout=120)
    wait_until(lambda: node_is_up(h), 30, "the node is up", every=0.3)


def cli(h, *words, check=True):
    return h.run("longhaul", "--server", "http://127.0.0.1:7420", "--token-file", "/etc/longhaul/operator.token", *words, check=check)


def ask(h, *words):
    return json.loads(cli(h, "--json", *words).stdout)


def node_is_up(h):
    return [n["state"] for n in ask(h, "nodes")] == ["up"]


def submit(h, job):
    h.write("root/job.json", json.dumps(job))
    return cli(h, "submit", "--quiet", "/root/job.json").stdout.strip()


def ends(h, job, timeout=60):
    return wait_until(lambda: (j := ask(h, "show", job))["state"] in longhaul.FINALS and j, timeout, "the job ends", every=0.3)


def running(h, job):
    return wait_until(lambda: ask(h, "show", job)["state"] == "running", 60, "the job runs", every=0.3)


def properties(h, unit, *names):
    text = h.run("systemctl", "show", unit, "-p", ",".join(names)).stdout
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def pids(h, program):
    """Processes of the container that run a program, by its own /proc."""
    found = []
    for entry in (h.root_of_init() / "proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "exe") == f"/usr/bin/{program}":
                found.append(entry.name)
        except OSError:
            pass
    return sorted(found, key=int)


# ---- what is installed


def test_installed_programs_look_for_libraries_where_the_system_has_them(tree):
    if not shutil.which("readelf"):
        pytest.skip("needs readelf")
    programs = [p for p in (tree / "usr/bin").iterdir() if p.name.startswith("longhaul")]
    assert sorted(p.name for p in programs) == ["longhaul", "longhaul-node", "longhaul-shim", "longhaul-worker", "longhauld"]
    for p in programs:
        dynamic = subprocess.run(["readelf", "-d", str(p)], check=True, capture_output=True, text=True).stdout
        assert "RPATH" not in dynamic and "RUNPATH" not in dynamic, p.name
        assert p.stat().st_mode & 0o7777 == 0o755, p.name


def test_installed_files_have_the_modes_that_their_contents_need(tree):
    modes = {"etc/longhaul/longhauld.yaml": 0o644, "etc/longhaul/node.env": 0o600, "usr/libexec/longhaul/make-tokens": 0o755,
             **{f"usr/lib/systemd/system/{u}": 0o644 for u in UNITS},
             "usr/lib/sysusers.d/longhaul.conf": 0o644, "usr/lib/tmpfiles.d/longhaul.conf": 0o644}
    assert {path: (tree / path).stat().st_mode & 0o7777 for path in modes} == modes
    for path in modes:
        left = re.findall(r"@\w+@", (tree / path).read_text())
        assert not left, f"{path}: {left}"


def test_installing_again_keeps_what_the_administrator_has_changed(tmp_path):
    install(tmp_path)
    (tmp_path / "etc/longhaul/longhauld.yaml").write_text("listen: 127.0.0.1:9\n")
    install(tmp_path)
    assert (tmp_path / "etc/longhaul/longhauld.yaml").read_text() == "listen: 127.0.0.1:9\n"


@pytest.mark.parametrize("unit, most", [("longhauld.service", 1.5), ("longhaul-node.service", 3.5)])
def test_the_units_are_hardened(tree, unit, most):
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", f"--threshold={round(most * 10)}",
                           str(tree / "usr/lib/systemd/system" / unit)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-400:]


# ---- a host


def test_the_units_have_no_mistakes(host):
    done = host.run("systemd-analyze", "verify", *UNITS, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_first_start_makes_account_directories_and_tokens(host):
    names = ("/var/lib/longhaul", "/var/lib/longhaul-node", "/etc/longhaul", "/etc/longhaul/tokens", "/etc/longhaul/node.token",
             "/etc/longhaul/operator.token", "/var/lib/longhaul/longhauld.db")
    listed = host.run("stat", "-c", "%n %U:%G %a", *names).stdout.splitlines()
    assert listed == ["/var/lib/longhaul longhaul:longhaul 750", "/var/lib/longhaul-node longhaul:longhaul 750",
                      "/etc/longhaul root:root 755", "/etc/longhaul/tokens root:longhaul 640",
                      "/etc/longhaul/node.token root:longhaul 640", "/etc/longhaul/operator.token root:root 600",
                      "/var/lib/longhaul/longhauld.db longhaul:longhaul 600"]
    before = host.run("cat", "/etc/longhaul/tokens").stdout
    assert [line.split()[:2] for line in before.splitlines() if line[0] != "#"] == [["operator", "admin"], ["node", "nodes"]]
    host.run("/usr/libexec/longhaul/make-tokens", "/etc/longhaul")
    assert host.run("cat", "/etc/longhaul/tokens").stdout == before, "tokens that are there stay"
    refused = host.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:7420/v1/jobs")
    assert refused.stdout == "401", "without a token nobody gets in, not from this machine either"


def test_daemons_have_real_time_priority_and_ranks_do_not(host):
    job = submit(host, check_job(120, slots=2))
    running(host, job)
    policy = {}
    for program in ("longhauld", "longhaul-node", "longhaul-shim", "longhaul-worker"):
        pid = pids(host, program)[0]
        fields = host.run("cat", f"/proc/{pid}/stat").stdout.rsplit(")", 1)[1].split()
        policy[program] = int(fields[38])
    spared = int(host.run("cat", f"/proc/{pids(host, 'longhaul-worker')[0]}/oom_score_adj").stdout) < 0
    cli(host, "cancel", job)
    assert ends(host, job)["state"] == "cancelled"
    round_robin, normal = 2, 0
    assert policy == {"longhauld": round_robin, "longhaul-node": round_robin, "longhaul-shim": normal, "longhaul-worker": normal}
    assert not spared, "a rank that takes all memory is to be found"


def test_each_attempt_has_a_cgroup_of_its_own_which_is_gone_afterwards(host):
    if host.run("test", "-e", "/sys/fs/cgroup/init.scope/cgroup.kill", check=False).returncode:
        pytest.skip("this kernel has no cgroup.kill")
    job = submit(host, check_job(120, slots=2))
    running(host, job)
    groups = {p: host.run("cat", f"/proc/{pids(host, p)[0]}/cgroup").stdout.strip() for p in
              ("longhaul-node", "longhaul-shim", "longhaul-worker")}
    assert groups["longhaul-node"].endswith("/longhaul-node.service")
    assert groups["longhaul-shim"].endswith(f"/longhaul-node.service/longhaul-{job}-1"), groups
    assert groups["longhaul-worker"].endswith(f"/longhaul-node.service/longhaul-{job}-1/job"), groups
    cli(host, "cancel", job)
    assert ends(host, job)["state"] == "cancelled"
    path = f"/sys/fs/cgroup/system.slice/longhaul-node.service/longhaul-{job}-1"
    wait_until(lambda: host.run("test", "-e", path, check=False).returncode, 10, "the cgroup is removed")


def test_a_job_goes_on_while_both_services_are_restarted(host):
    job = submit(host, check_job(6, slots=2))
    running(host, job)
    ranks, shims = pids(host, "longhaul-worker"), pids(host, "longhaul-shim")
    assert len(ranks) == 2
    before = [properties(host, u, "MainPID")["MainPID"] for u in UNITS]
    host.run("systemctl", "restart", *UNITS)
    after = [properties(host, u, "MainPID")["MainPID"] for u in UNITS]
    assert not set(before) & set(after)
    assert (pids(host, "longhaul-worker"), pids(host, "longhaul-shim")) == (ranks, shims)
    ended = ends(host, job)
    assert (ended["state"], ended["attempts"], ended["result"]["errors"]) == ("succeeded", 1, 0), ended


def test_a_job_goes_on_while_both_services_are_stopped(host):
    """Nothing that systemd does at the stop of the last service of the account takes anything from the ranks."""
    job = submit(host, check_job(6, slots=2))
    running(host, job)
    ranks = pids(host, "longhaul-worker")
    host.run("systemctl", "stop", *UNITS)
    assert [properties(host, u, "Result")["Result"] for u in UNITS] == ["success"] * 2
    assert pids(host, "longhaul-worker") == ranks
    assert list((host.root_of_init() / "dev/shm").glob(f"longhaul-{job}-1/*")), "shared memory of the ranks is there"
    host.run("systemctl", "start", *UNITS)
    ended = ends(host, job)
    assert (ended["state"], ended["attempts"]) == ("succeeded", 1), ended


def test_a_training_job_runs_as_the_service_account_and_leaves_its_checkpoint_in_the_store(host):
    case = longhaul.ROOT / "tests/golden/cases/s2-packed-gqa-tied"
    data = host.root_of_init() / "srv/case"
    shutil.copytree(case, data)
    for path in [data, *data.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    job = submit(host, {
        "name": "packaged", "kind": "train", "precision": "fp32", "model": {"base": "file:///srv/case/model"},
        "context": {"length": 40, "rope": {"type": "linear", "factor": 2}, "attention": {"type": "s2", "group": 12}},
        "data": {"train": ["file:///srv/case/batch.safetensors"], "format": "tokens", "pack": True},
        "optim": {"lr": 0.01, "batch_sequences": 3, "steps": 2}, "resources": {"slots": 2, "threads": 1, "micro_batches": 3}})
    ended = ends(host, job)
    assert ended["state"] == "succeeded", (ended["error"], host.journal())
    listed = host.run("stat", "-c", "%U %a", f"/var/lib/longhaul/store/{job}/attempt-1/step-00000002/manifest.json").stdout.split()
    assert listed[0] == "longhaul"


def test_a_stuck_daemon_is_restarted_by_the_watchdog(host):
    for unit in UNITS:
        host.run("mkdir", "-p", f"/run/systemd/system/{unit}.d")
        host.write(f"run/systemd/system/{unit}.d/test.conf", "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\nRestartSec=0\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", *UNITS)
    before = {unit: properties(host, unit, "MainPID")["MainPID"] for unit in UNITS}
    host.run("sh", "-c", "kill -STOP " + " ".join(before.values()))
    for unit in UNITS:
        def again():
            now = properties(host, unit, "MainPID", "NRestarts", "ActiveState")
            return now["ActiveState"] == "active" and int(now["NRestarts"]) >= 1 and now["MainPID"] not in ("0", before[unit])
        wait_until(again, 30, f"systemd has started another {unit}", every=0.3)
    wait_until(lambda: node_is_up(host), 30, "the node is up again", every=0.3)


def test_a_wrong_configuration_is_told_once_and_not_tried_again(host):
    host.write("etc/longhaul/longhauld.yaml", "lissten: 127.0.0.1:7420\n")
    assert host.run("systemctl", "restart", "longhauld.service", check=False).returncode != 0
    now = properties(host, "longhauld.service", "ActiveState", "ExecMainStatus", "NRestarts")
    assert (now["ActiveState"], now["ExecMainStatus"]) == ("failed", "78"), now
    assert "lissten" in host.journal("longhauld.service")
