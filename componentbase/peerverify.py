"""Client certificates that do not verify, reported instead of cut off.

kube-apiserver asks for a client certificate but does not let TLS judge it: who shows a wrong one completes
the handshake and gets a 401 that says so, instead of an alert. The ssl module offers no such mode. OpenSSL
does: a callback in place of its verification. The callback here still runs OpenSSL's own verification,
notes the outcome, and lets the handshake go on. It is installed through ctypes, on the libssl that the ssl
module itself is linked to.

Failing closed is the invariant: a certificate counts as verified only while its digest is in the list of
those that OpenSSL accepted, sessions are never resumed, and any error inside the callback ends the
handshake.
"""

from __future__ import annotations

import _ssl
import ctypes
import hashlib
import logging
import ssl
from collections import OrderedDict
from typing import Any

log = logging.getLogger(__name__)

_REMEMBERED = 4096

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _PySSLContext(ctypes.Structure):
    """The head of CPython's object behind SSLContext: reference count, type, then the SSL_CTX pointer."""

    _fields_ = (
        ("reference_count", ctypes.c_ssize_t),
        ("type", ctypes.c_void_p),
        ("ctx", ctypes.c_void_p),
    )


class LenientContext(ssl.SSLContext):
    """A server context whose handshakes succeed whatever certificate the client shows; see `lenient`."""

    verifier: PeerVerifier | None = None


class PeerVerifier:
    """Knows which client certificates OpenSSL accepted, and why it did not accept others."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._accepted: OrderedDict[bytes, None] = OrderedDict()
        self._reasons: OrderedDict[bytes, str] = OrderedDict()
        # The C side keeps a bare pointer to it: it must live as long as the context.
        self.callback = _Callback(self._verify)

    def reason(self, der: bytes) -> str:
        """Why this certificate must not be believed; "" when it verified."""
        digest = hashlib.sha256(der).digest()
        if digest in self._accepted:
            return ""
        return self._reasons.get(digest, "certificate was not verified")

    def _verify(self, store_context: int, _: int) -> int:
        accepted = self._library.X509_verify_cert(store_context) == 1
        digest = hashlib.sha256(self._leaf(store_context)).digest()
        if accepted:
            _remember(self._accepted, digest, None)
            return 1
        self._accepted.pop(digest, None)
        code = self._library.X509_STORE_CTX_get_error(store_context)
        _remember(self._reasons, digest, self._library.X509_verify_cert_error_string(code).decode())
        return 1

    def _leaf(self, store_context: int) -> bytes:
        """The client's own certificate in DER."""
        certificate = self._library.X509_STORE_CTX_get0_cert(store_context)
        size = self._library.i2d_X509(certificate, None)
        if size <= 0:
            raise ValueError("the certificate cannot be encoded")
        buffer = ctypes.create_string_buffer(size)
        cursor = ctypes.c_char_p(ctypes.addressof(buffer))
        self._library.i2d_X509(certificate, ctypes.byref(cursor))
        return buffer.raw


def _remember(cache: OrderedDict[bytes, Any], digest: bytes, value: Any) -> None:
    cache[digest] = value
    cache.move_to_end(digest)
    if len(cache) > _REMEMBERED:
        cache.popitem(last=False)


def _openssl() -> ctypes.CDLL | None:
    """The OpenSSL behind the ssl module; None when it cannot be reached (linked statically, another
    Python).
    """
    try:
        library = ctypes.CDLL(_ssl.__file__)
        signatures: dict[str, tuple[Any, list[Any]]] = {
            "SSL_CTX_set_cert_verify_callback": (None, [ctypes.c_void_p, _Callback, ctypes.c_void_p]),
            "SSL_CTX_get_verify_mode": (ctypes.c_int, [ctypes.c_void_p]),
            "X509_verify_cert": (ctypes.c_int, [ctypes.c_void_p]),
            "X509_STORE_CTX_get_error": (ctypes.c_int, [ctypes.c_void_p]),
            "X509_STORE_CTX_get0_cert": (ctypes.c_void_p, [ctypes.c_void_p]),
            "X509_verify_cert_error_string": (ctypes.c_char_p, [ctypes.c_long]),
            "i2d_X509": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype = result
            function.argtypes = arguments
    except (OSError, AttributeError):
        return None
    return library


def lenient(context: LenientContext) -> bool:
    """Let handshakes of `context` go on with certificates that do not verify; says whether that was possible.

    Where it was not, the context still verifies as it did: wrong certificates end the handshake.
    """
    library = _openssl()
    address = _PySSLContext.from_address(id(context)).ctx if library is not None else None
    # A wrong pointer would not show this value, which was set through the ssl module.
    if library is None or not address or library.SSL_CTX_get_verify_mode(address) != _ssl.CERT_OPTIONAL:
        log.warning("this Python does not allow reporting wrong client certificates: they end the handshake")
        return False
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    context.verifier = PeerVerifier(library)
    library.SSL_CTX_set_cert_verify_callback(address, context.verifier.callback, None)
    return True
