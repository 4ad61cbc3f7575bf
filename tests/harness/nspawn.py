"""A booted Debian 12 host in a container: systemd as its first process, made once and copied on write for each test."""
import os
import pathlib
import shutil
import signal
import subprocess
import time

PACKAGES = ("systemd,systemd-sysv,dbus,iproute2,openmpi-bin,libuv1,libmicrohttpd12,libssl3,libsqlite3-0,libcurl4,libjansson4,"
            "libcyaml1,libyaml-0-2,libpcre2-8-0,libdnnl2,libsystemd0,libzstd1,zlib1g,curl,ca-certificates")


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "longhaul"


def missing():
    """Why no host can be booted here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("debootstrap", "systemd-nspawn", "nsenter"):
        if not shutil.which(program):
            return f"needs {program}"
    return None


def base_root():
    """A minimal Debian with the programs' runtime packages, made once (about two minutes) and kept in the cache."""
    root = cache() / "test-root"
    if root.exists():
        return root
    part = cache() / "test-root.part"
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(part)],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError("debootstrap failed: " + (done.stdout + done.stderr)[-500:])
    part.rename(root)
    return root


class Host:
    """One container; writes go to an overlay that is thrown away."""

    def __init__(self, work):
        self.work = pathlib.Path(work)
        self.root = self.work / "root"
        self.process = None

    def __enter__(self):
        for d in ("root", "upper", "scratch"):
            (self.work / d).mkdir(parents=True)
        # The overlay's own files must lie on a file system that takes them: a tmpfs always does.
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(self.work / "scratch")], check=True)
        for d in ("upper", "work"):
            (self.work / "scratch" / d).mkdir()
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
                        f"lowerdir={base_root()},upperdir={self.work}/scratch/upper,workdir={self.work}/scratch/work",
                        str(self.root)], check=True)
        return self

    def boot(self):
        (self.root / "etc/machine-id").write_text("")
        self.process = subprocess.Popen(
            ["systemd-nspawn", "-q", "-D", str(self.root), "--register=no", "--keep-unit", "--private-network", "--boot"],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},  # also where the machine itself is hybrid
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"):
                return self
            time.sleep(0.2)
        raise RuntimeError("the container did not boot within 60 s")

    def init(self):
        """Process id of the container's first process, or None."""
        done = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True)
        return done.stdout.split()[0] if done.stdout.split() else None

    def run(self, *words, check=True, timeout=60):
        pid = self.init()
        if not pid:
            return subprocess.CompletedProcess(words, 1, "", "not booted")
        done = subprocess.run(["nsenter", "-t", pid, "-a", *words], capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def root_of_init(self):
        """The container's file system as it sees it, with its own mounts on /run, /tmp and /dev/shm."""
        return pathlib.Path(f"/proc/{self.init()}/root")

    def write(self, path, text):
        (self.root_of_init() / path).write_text(text)

    def journal(self, unit=None):
        """The end of the journal, for messages of failed tests."""
        words = ["-u", unit] if unit else []
        return self.run("journalctl", "--no-pager", "-n", "60", "-o", "cat", *words, check=False).stdout

    def __exit__(self, *error):
        if self.process:
            self.run("systemctl", "poweroff", check=False)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
        subprocess.run(["umount", str(self.root)], capture_output=True)
        subprocess.run(["umount", str(self.work / "scratch")], capture_output=True)
