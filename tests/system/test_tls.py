"""longhauld behind TLS with tokens, as it is set up beyond one machine."""
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import time

import pytest

import longhaul

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture
def secured(tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")], check=True, capture_output=True)
    (tmp_path / "tokens").write_text(f"operator alice {hashlib.sha256(b's3cret').hexdigest()}\n")
    (tmp_path / "longhauld.yaml").write_text(f"""
tls_cert: {tmp_path}/cert.pem
tls_key: {tmp_path}/key.pem
token_file: {tmp_path}/tokens
auth: token
timers: {{request_ms: 2000}}
""")
    daemon = longhaul.Coordinator(tmp_path / "state", "--config", tmp_path / "longhauld.yaml", standalone=False).start()
    yield daemon, ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    daemon.stop()


def ask(daemon, context, text):
    host, port = daemon.url.removeprefix("https://").split(":")
    with context.wrap_socket(socket.create_connection((host, int(port)), timeout=20), server_hostname="localhost") as s:
        s.sendall(text.encode())
        answer = b""
        while chunk := s.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_a_token_is_needed_and_suffices(secured):
    daemon, context = secured
    assert daemon.url.startswith("https://")
    request = "GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    assert ask(daemon, context, request + "\r\n")[0] == 401
    assert ask(daemon, context, request + "Authorization: Bearer wrong\r\n\r\n")[0] == 401
    status, body = ask(daemon, context, request + "Authorization: Bearer s3cret\r\n\r\n")
    assert status == 200 and json.loads(body) == {"jobs": [], "next_cursor": None}


def test_a_client_that_never_finishes_its_handshake_is_cut_and_holds_nobody_up(secured):
    daemon, context = secured
    host, port = daemon.url.removeprefix("https://").split(":")
    begun = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=20) as s:
        s.sendall(b"\x16\x03\x01")
        assert ask(daemon, context, "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")[0] == 200
        assert time.monotonic() - begun < 1.5
        assert s.recv(100) == b""
    assert 1.5 < time.monotonic() - begun < 6
