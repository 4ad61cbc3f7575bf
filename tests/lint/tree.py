"""What the lints share: the files of the tree, and the report."""
import os
import subprocess
import sys

SKIP = (".git", "__pycache__", ".venv", ".pytest_cache")


def files(root):
    """Relative paths of the files that belong to the tree: what git knows or would add, else all but builds."""
    try:
        out = subprocess.run(["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             capture_output=True, check=True).stdout
        found = [p for p in out.decode().split("\0") if p and os.path.isfile(os.path.join(root, p))]
        if found:
            return sorted(set(found))
    except (OSError, subprocess.CalledProcessError):
        pass
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [d for d in folders if d not in SKIP and not d.startswith("build")]
        found += [os.path.relpath(os.path.join(folder, n), root) for n in names]
    return sorted(found)


def text(root, path):
    """A file's text, or None when it is binary."""
    with open(os.path.join(root, path), "rb") as f:
        data = f.read()
    if b"\0" in data:
        return None
    return data.decode("utf-8", "replace")


def finish(name, problems, checked):
    """Prints the problems; the exit status of the lint."""
    for p in problems:
        print(p)
    print(f"{name}: {len(problems)} problems in {checked}")
    sys.exit(1 if problems else 0)
