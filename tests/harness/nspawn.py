"""A booted Debian 12 host in a container: systemd as its first process, made once and copied on write for each test."""
import os
import pathlib
import shutil
import signal
import subprocess
import time

PACKAGES = ("systemd,systemd-sysv,dbus,iproute2,openmpi-bin,libuv1,libmicrohttpd12,libssl3,libsqlite3-0,libcurl4,libjansson4,"
            "libcyaml1,libyaml-0-2,libpcre2-8-0,libdnnl2,libsentencepiece0,libsystemd0,libzstd1,zlib1g,curl,ca-certificates")


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "longhaul"


def missing():
    """Why no host can be booted here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("debootstrap", "systemd-nspawn", "nsenter", "setpriv"):
        if not shutil.which(program):
            return f"needs {program}"
    return None


def complete(root):
    """Whether a root has all of PACKAGES: the list may have grown since it was made."""
    done = subprocess.run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f=${db:Status-Status} ", *PACKAGES.split(",")],
                          capture_output=True, text=True)
    return done.returncode == 0 and set(done.stdout.split()) == {"installed"}


def base_root():
    """A minimal Debian with the programs' runtime packages, made once (about two minutes) and kept in the cache."""
    root = cache() / "test-root"
    if root.exists() and complete(root):
        return root
    part = cache() / "test-root.part"
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(part)],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError("debootstrap failed: " + (done.stdout + done.stderr)[-500:])
    shutil.rmtree(root, ignore_errors=True)
    part.rename(root)
    return root


class CannotBoot(Exception):
    """Containers do not work here; the text says why."""


class Host:
    """One container; writes go to an overlay that is thrown away."""

    def __init__(self, work):
        self.work = pathlib.Path(work)
        self.root = self.work / "root"
        self.process = None

    def __enter__(self):
        try:
            self.mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def mount(self):
        for d in ("root", "upper", "scratch"):
            (self.work / d).mkdir(parents=True)
        # The overlay's own files must lie on a file system that takes them: a tmpfs always does.
        self.mount_one("tmpfs", "size=2g", self.work / "scratch")
        for d in ("upper", "work"):
            (self.work / "scratch" / d).mkdir()
        self.mount_one("overlay", f"lowerdir={base_root()},upperdir={self.work}/scratch/upper,workdir={self.work}/scratch/work",
                       self.root)

    @staticmethod
    def mount_one(kind, options, where):
        done = subprocess.run(["mount", "-t", kind, "-o", options, kind, str(where)], capture_output=True, text=True)
        if done.returncode != 0:
            raise CannotBoot(f"mount {kind}: {done.stderr.strip()}")

    def boot(self):
        (self.root / "etc/machine-id").write_text("")
        log = self.work / "nspawn.log"
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "systemd-nspawn", "-q", "-D", str(self.root), "--register=no", "--keep-unit",
                 "--private-network", "--boot"],
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},  # also where the machine itself is hybrid
                stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            if self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"):
                return self
            time.sleep(0.2)
        raise CannotBoot("systemd-nspawn: " + log.read_text(errors="replace").strip()[-300:])

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
