"""TLS in front of a server that speaks none: the certificate of an authority of its own, and
connections that go on to a Unix socket.
"""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = "localhost"
CHUNK_BYTES = 65_536


def make_certificate(folder: Path) -> Path:
    """Return the file of a certificate for `localhost` that signs itself, with its key beside."""
    certificate = folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    command += ["-addext", f"subjectAltName=DNS:{NAME}"]
    command += ["-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate


@contextmanager
def forwarding(
    target: Path, certificate: Path | None = None, protocols: Sequence[str] = ()
) -> Iterator[int]:
    """Forward connections to a port of this machine to a Unix socket; with TLS, if there is a
    certificate. `protocols`: names that a client may ask for (ALPN).
    """
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        if protocols:
            context.set_alpn_protocols(list(protocols))
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_accept, args=(server, context, target), daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def _accept(server: socket.socket, context: ssl.SSLContext | None, target: Path) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, context, target), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext | None, target: Path) -> None:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as inner:
        outer = client if context is None else context.wrap_socket(client, server_side=True)
        with outer:
            inner.connect(str(target))
            back = threading.Thread(target=_copy, args=(inner, outer), daemon=True)
            back.start()
            _copy(outer, inner)
            back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(CHUNK_BYTES):
            sink.sendall(content)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
