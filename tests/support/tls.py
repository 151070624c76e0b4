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
AUTHORITY = "authority.pem"
NEW_KEY = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
CHUNK_BYTES = 65_536


def make_certificate(folder: Path) -> Path:
    """Return the file of a certificate for `localhost`, with its key beside it, signed by the
    authority of `authority.pem` there.
    """
    certificate, authority = folder / "certificate.pem", folder / AUTHORITY
    request = folder / "request.pem"
    _openssl(*NEW_KEY, "-x509", "-subj", "/CN=authority", *_output(authority))
    _openssl(*NEW_KEY, "-subj", f"/CN={NAME}", *_output(certificate, request))
    extensions = folder / "extensions"
    extensions.write_text(f"subjectAltName=DNS:{NAME}\nbasicConstraints=CA:FALSE\n")
    signing = ["x509", "-req", "-in", str(request), "-days", "2", "-out", str(certificate)]
    signing += ["-CA", str(authority), "-CAkey", str(authority.with_suffix(".key"))]
    _openssl(*signing, "-CAcreateserial", "-extfile", str(extensions))
    return certificate


def _output(file: Path, written: Path | None = None) -> list[str]:
    return ["-keyout", str(file.with_suffix(".key")), "-out", str(written or file)]


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


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
