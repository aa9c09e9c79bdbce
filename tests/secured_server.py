"""A server behind TLS, with a certificate of a CA of its own and the users of the README."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import ssl
import subprocess
import threading

from support import ROOT
from topology import free_port


class TlsFront:
    """Ends TLS before a server that was built without it."""

    def __init__(self, port, certificate, key):
        self.upstream = port
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        plain = socket.create_server(("127.0.0.1", 0))
        self.port = plain.getsockname()[1]
        self.listener = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.upstream))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=pair, daemon=True).start()

    @staticmethod
    def _copy(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, target):
                one.close()


def make_certificates(folder):
    """A CA, and a certificate for 127.0.0.1 that it signed: → ca, certificate, key"""
    ca, ca_key, certificate, key, request = (folder / name for name in ("ca.pem", "ca.key", "c.pem", "c.key", "c.csr"))
    new = ["req", "-newkey", "rsa:2048", "-nodes", "-keyout"]
    named = folder / "names"
    named.write_text("subjectAltName=IP:127.0.0.1")
    for words in (
        [*new, ca_key, "-x509", "-days", "2", "-subj", "/CN=psmq tests", "-out", ca],
        [*new, key, "-subj", "/CN=127.0.0.1", "-out", request],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
         "-extfile", named, "-out", certificate],
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)
    return ca, certificate, key


class Secured:
    """One server behind TLS; ``url(user)``: as the README writes it."""

    def __init__(self, fleet, folder):
        self.ca, certificate, key = make_certificates(folder)
        if binary := shutil.which("redis-server"):
            self.server = fleet.start(binary=binary, tls_port=0)
            for name, value in (("cert-file", certificate), ("key-file", key), ("ca-cert-file", self.ca)):
                self.server.ask("CONFIG", "SET", f"tls-{name}", str(value))
            self.server.ask("CONFIG", "SET", "tls-auth-clients", "no")
            self.port = free_port()
            self.server.ask("CONFIG", "SET", "tls-port", self.port)
        else:
            self.server = fleet.start()
            self.port = TlsFront(self.server.port, certificate, key).port
        for words in roles():
            self.server.ask(*words)

    def url(self, user, password, *, ca=True):
        return f"rediss://{user}:{password}@127.0.0.1:{self.port}/0" + (f"?ssl_ca_certs={self.ca}" if ca else "")


def roles():
    """The README's lines, as they are."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    found = [shlex.split(line)[1:] for line in re.findall(r"^ *valkey-cli ACL SETUSER .*$", text, re.MULTILINE)]
    assert [words[2] for words in found] == ["producer", "worker", "admin"]
    return found
