"""The quickstart after installing and building: model, texts, daemon, jobs, table. Called by deploy/quickstart.

Everything that a user would do is done through the programs that a user has: longhauld and the CLI.
"""
import argparse
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time

from inputs import fail, get_model, get_texts, say

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = ROOT / "build" / "bin"
NATIVE_CONTEXT = 8192
RANKS = 2
RANK_BYTES = 3 << 30  # a rank may take so much, or half of its share of what is free where that is less
FINALS = ("succeeded", "failed", "cancelled", "timed_out")


def state_dir():
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return pathlib.Path(base) / "longhaul" / "quickstart"


class Session:
    """The daemon and the jobs that this run started; stop() ends them all."""

    def __init__(self, state):
        self.state = pathlib.Path(state)
        self.daemon = None
        self.jobs = []
        self.server = None

    def start(self):
        self.state.mkdir(parents=True, exist_ok=True)
        log = open(self.state / "longhauld.log", "ab")
        self.daemon = subprocess.Popen(
            [str(BIN / "longhauld"), "--standalone", "--state", str(self.state), "--listen", "127.0.0.1:0",
             "--slots", str(RANKS)], stdout=log, stderr=log, start_new_session=True)
        address = self.state / "address"
        for _ in range(300):
            if self.daemon.poll() is not None:
                tail = (self.state / "longhauld.log").read_text(errors="replace").splitlines()[-3:]
                fail("longhauld did not start:\n  " + "\n  ".join(tail))
            if address.exists():
                self.server = address.read_text().strip()
                return
            time.sleep(0.1)
        fail(f"longhauld was not ready within 30 s, see {self.state}/longhauld.log")

    def cli(self, *words, **options):
        return subprocess.run([str(BIN / "longhaul"), "--server", self.server, *words], **options)

    def submit(self, job):
        done = self.cli("submit", "--quiet", "-", input=json.dumps(job), text=True, stdout=subprocess.PIPE)
        if done.returncode != 0:
            fail(f"{job['name']} was refused (see above)")
        self.jobs.append(done.stdout.strip())
        return self.jobs[-1]

    def show(self, job):
        done = self.cli("show", "--json", job, text=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def run(self, job, what):
        """Submits, follows with the CLI's own progress line, and returns the finished job."""
        began = time.monotonic()
        job_id = self.submit(job)
        say(f"{what:9} {job_id} ({job['name']})")
        self.cli("wait", job_id, stdout=subprocess.DEVNULL)
        ended = self.show(job_id)
        ended["wall_s"] = round(time.monotonic() - began, 1)
        if ended.get("state") != "succeeded":
            self.cli("logs", job_id, stdout=sys.stderr)
            error = ended.get("error") or {}
            fail(f"{job['name']} ended {ended.get('state')}: {error.get('detail', 'see its log above')}")
        return ended

    def stop(self, cancel):
        if not self.daemon or self.daemon.poll() is not None:
            return
        if cancel:
            alive = [j for j in self.jobs if self.show(j).get("state") not in FINALS]
            if alive:
                self.cli("cancel", *alive, stdout=subprocess.DEVNULL)
                self.cli("wait", "--no-progress", "--timeout", "60", *alive, stdout=subprocess.DEVNULL)
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(30)
        except subprocess.TimeoutExpired:
            self.daemon.kill()


def rank_memory():
    for line in open("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return min(RANK_BYTES, int(line.split()[1]) * 1024 // 2 // RANKS)
    return RANK_BYTES


def make_jobs(a, model, train, heldout):
    """Three jobs: the base as shipped, the base with the new positions, and the training (which measures itself)."""
    lengths = sorted({n for n in (2048, 4096, 8192, a.context) if n <= a.context})
    factor = -(-a.context // NATIVE_CONTEXT)
    measure = {"perplexity": heldout, "lengths": lengths, "windows": len(heldout)}
    resources = {"slots": RANKS, "device": "cpu"}

    def evaluate(name, rope):
        return {"name": name, "kind": "eval", "model": {"base": f"file://{model}"},
                "context": {"length": a.context, "rope": rope}, "eval": measure, "resources": resources}

    yarn = {"type": "yarn", "factor": factor}
    tag = f"{a.context // 1024}k"
    training = {
        "name": f"smollm2-{tag}", "kind": "train", "model": {"base": f"file://{model}"},
        "context": {"length": a.context, "rope": yarn, "attention": {"type": "s2", "group": a.context // 4}},
        "data": {"train": train, "format": "text", "pack": "join"},
        "adapter": {"rank": 8, "alpha": 16, "targets": ["q", "k", "v", "o"], "embeddings": True, "norms": True},
        "optim": {"lr": 3e-4, "schedule": "constant", "warmup_steps": 0, "batch_sequences": RANKS,
                  "steps": 1000, "minutes": a.minutes, "seed": 17},
        "eval": measure, "resources": resources, "limits": {"memory_bytes": rank_memory()}}
    return [("as shipped", evaluate(f"shipped-{tag}", {"type": "linear", "factor": 1})),
            ("untrained", evaluate(f"untrained-{tag}", yarn)), ("trained", training)], lengths


def perplexities(job, lengths):
    rows = {int(r["length"]): r["perplexity"] for r in job["result"]["eval"]["lengths"]}
    return [rows[n] for n in lengths]


def table(lengths, rows):
    say("\nperplexity on held-out text (full attention; lower is better)\n")
    say(f"  {'first tokens':24}" + "".join(f"{n:>10}" for n in lengths))
    for name, values in rows:
        say(f"  {name:24}" + "".join(f"{v:10.2f}" for v in values))


def cpu_name():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def git_commit():
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True, capture_output=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def arguments():
    p = argparse.ArgumentParser(prog="deploy/quickstart")
    p.add_argument("--context", type=int, default=16384)
    p.add_argument("--minutes", type=int, default=10)
    p.add_argument("--keep", action="store_true")
    p.add_argument("--json")
    p.add_argument("--state", default=str(state_dir()))
    p.add_argument("--install-s", type=int, default=0, help=argparse.SUPPRESS)
    p.add_argument("--build-s", type=int, default=0, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.context < 2048 or a.context % 16:
        p.error(f"--context {a.context}: a multiple of 16, at least 2048 (16384 doubles the model's own context)")
    if a.minutes < 1:
        p.error("--minutes must be at least 1")
    return a


def finish(a, session, ended, lengths, phases):
    names = [("as shipped", "base as shipped"), ("untrained", "base, new positions"), ("trained", "trained")]
    rows = [(label, perplexities(ended[key], lengths)) for key, label in names]
    table(lengths, rows)
    trained = ended["trained"]
    checkpoint = trained["checkpoints"]
    base, new, own = (values for _, values in rows)
    verdict = own[-1] < min(base[-1], new[-1]) and own[0] <= new[0]
    say("\nthe trained model is " + ("better at the full context than both others, and no worse at the shortest"
                                     if verdict else "NOT better everywhere: a longer run or other texts may help"))
    say(f"\ncheckpoint  {checkpoint['uri']}")
    say(f"status      {session.server}/v1/status{'' if a.keep else ' (while it ran)'}")
    if a.keep:
        say(f"""
The coordinator goes on (stop it with: kill {session.daemon.pid}). Next:
  {BIN}/longhaul --server {session.server} status
  {BIN}/longhaul --server {session.server} list
  {BIN}/longhaul --server {session.server} show {trained['id']}""")
    else:
        say(f"""
The coordinator is stopped; what it knows is kept. Next:
  {BIN}/longhauld --standalone --state {session.state} &     starts it again with these jobs
  {BIN}/longhaul list
  {BIN}/longhaul show {trained['id']}
deploy/quickstart --keep leaves it running.""")
    if a.json:
        summary = {"phases_s": phases, "steps": trained["result"].get("steps"),
                   "tokens_per_s": trained["result"].get("tokens_per_s"),
                   "perplexity": [{"model": label, **{str(n): v for n, v in zip(lengths, values)}}
                                  for label, values in rows],
                   "trained_is_best": verdict, "checkpoint": checkpoint["uri"], "ranks": RANKS, "context": a.context,
                   "commit": git_commit(), "cpu": cpu_name(), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        pathlib.Path(a.json).write_text(json.dumps(summary, indent=2) + "\n")


def main():
    a = arguments()
    session = Session(a.state)

    def interrupted(number, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupted)
    began = time.monotonic()
    phases = {"install": a.install_s, "build": a.build_s}
    cancel, keep = True, False
    try:
        model = get_model()
        train, heldout = get_texts()
        phases["inputs"] = round(time.monotonic() - began, 1)
        session.start()
        say(f"daemon    {session.server}, log {session.state}/longhauld.log")
        jobs, lengths = make_jobs(a, model, train, heldout)
        ended = {}
        for key, job in jobs:
            ended[key] = session.run(job, "training" if key == "trained" else "measuring")
            phases[key] = ended[key]["wall_s"]
        finish(a, session, ended, lengths, phases)
        cancel, keep = False, a.keep
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        say("\nquickstart: stopping the jobs and the coordinator that this run started")
        session.stop(cancel=True)
        say("quickstart: everything that was started is stopped")
        sys.exit(130)
    finally:
        if not keep:
            session.stop(cancel=cancel)


if __name__ == "__main__":
    main()
