"""A whole host under systemd: install, run a job, restart both services during it, trip the watchdog."""
import hashlib
import json
import re
import subprocess

import longhaul
import nspawn
import pytest
from longhaul import check_job, wait_until

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    why = nspawn.missing()
    if why:
        pytest.skip(f"no container can be booted here: {why}")
    try:
        nspawn.base_root()
    except RuntimeError as e:
        pytest.skip(f"no Debian root could be made: {e}")
    with nspawn.Host(tmp_path_factory.mktemp("host")) as h:
        build = longhaul.BIN.parent
        subprocess.run(["cmake", "--install", str(build)], check=True, capture_output=True,
                       env={"DESTDIR": str(h.root), "PATH": "/usr/bin:/bin"})
        # Where the units look for their configuration follows from the prefix that the build was configured with.
        h.etc = re.search(r"--config (\S+)/longhauld.yaml", (build / "systemd/longhauld.service").read_text()).group(1)
        prepare_configuration(h)
        h.boot()
        yield h


def prepare_configuration(h):
    token = "a-token-of-this-test-run-0123456789"
    digest = hashlib.sha256(token.encode()).hexdigest()
    etc = h.root / h.etc[1:]
    assert (etc / "longhauld.yaml").exists() and (etc / "node.env").exists()  # the installed samples
    (etc / "node.token").write_text(token + "\n")
    (etc / "tokens").write_text(f"operator test {digest}\n")
    (etc / "longhauld.yaml").write_text(f"listen: 127.0.0.1:7433\nauth: token\ntoken_file: {h.etc}/tokens\n"
                                        "store: file:///var/lib/longhaul-node/store\n")
    (etc / "node.env").write_text('LONGHAUL_NODE_ARGS="--coordinator http://127.0.0.1:7433 --name here --slots 2 '
                                  f'--token-file {h.etc}/node.token"\n')


def ask(h, *words):
    done = h.run("longhaul", "--server", "http://127.0.0.1:7433", "--token-file", f"{h.etc}/node.token", "--json", *words)
    return json.loads(done.stdout)


def properties(h, unit, *names):
    text = h.run("systemctl", "show", unit, "-p", ",".join(names)).stdout
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_the_unit_file_is_hardened():
    unit = longhaul.BIN.parent / "systemd" / "longhauld.service"
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=15", str(unit)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-400:]


def test_installed_services_run_a_job_and_survive_restarts(host):
    host.run("systemd-sysusers")
    host.run("systemd-tmpfiles", "--create")
    host.run("chown", "longhaul:longhaul", f"{host.etc}/node.token", f"{host.etc}/tokens")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "longhauld.service", "longhaul-node.service")
    assert host.run("systemctl", "is-active", "longhauld.service", "longhaul-node.service").stdout.split() == ["active"] * 2
    wait_until(lambda: any(n["state"] == "up" for n in ask(host, "nodes")), 30, "the node is up", every=0.2)
    (host.root / "tmp/job.json").write_text(json.dumps(check_job(7, slots=2)))
    job = submit(host, "/tmp/job.json")
    wait_until(lambda: ask(host, "show", job)["state"] == "running", 60, "the job runs", every=0.2)
    host.run("systemctl", "restart", "longhauld.service")
    host.run("systemctl", "restart", "longhaul-node.service")
    ended = wait_until(lambda: (j := ask(host, "show", job))["state"] in longhaul.FINALS and j, 90, "the job ends", every=0.2)
    assert ended["state"] == "succeeded", ended
    assert ended["attempts"] == 1


def submit(h, path):
    # A root of the host wrote the file; /tmp of the container may hide it behind its own mount.
    spec = (h.root / path.lstrip("/")).read_text()
    h.run("sh", "-c", f"cat > /root/job.json <<'END'\n{spec}\nEND")
    done = h.run("longhaul", "--server", "http://127.0.0.1:7433", "--token-file", f"{h.etc}/node.token", "submit", "--quiet",
                 "/root/job.json")
    return done.stdout.strip()


def test_a_stuck_coordinator_is_restarted_by_the_watchdog(host):
    before = properties(host, "longhauld.service", "MainPID", "NRestarts")
    host.run("sh", "-c", "mkdir -p /etc/systemd/system/longhauld.service.d && printf '[Service]\\nWatchdogSec=3\\n' "
                         "> /etc/systemd/system/longhauld.service.d/test.conf")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "longhauld.service")
    pid = properties(host, "longhauld.service", "MainPID")["MainPID"]
    assert pid != before["MainPID"]
    host.run("sh", "-c", f"kill -STOP {pid}")
    wait_until(lambda: properties(host, "longhauld.service", "MainPID")["MainPID"] not in ("0", pid), 60,
               "systemd has started another coordinator", every=0.2)
    wait_until(lambda: host.run("systemctl", "is-active", "longhauld.service", check=False).stdout.strip() == "active", 30,
               "it is active", every=0.2)
    assert int(properties(host, "longhauld.service", "NRestarts")["NRestarts"]) >= 1
