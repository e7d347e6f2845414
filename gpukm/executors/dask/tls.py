"""Certificates for connections to a cluster, and between its parts."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpukm.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Security


@dataclass(frozen=True)
class Tls:
    """Files in PEM format. Dask authenticates both sides, so a client shows a certificate too.

    Attributes
    ----------
    ca : str
        Certificates of the authority that signed everybody's.
    cert : str
        Certificate to show.
    key : str or None
        Its key; None where ``cert`` holds it too.
    """

    ca: str
    cert: str
    key: str | None = None


def tls_of(ca: str | None, cert: str | None, key: str | None) -> Tls | None:
    """What three options say; None when none is given.

    Raises
    ------
    ConfigError
        Some are given and others missing.
    """
    if ca is None and cert is None and key is None:
        return None
    if ca is None or cert is None:
        missing = "tls_ca" if ca is None else "tls_cert"
        raise ConfigError(f"{missing} is missing; TLS needs tls_ca and tls_cert, and tls_key unless it is in tls_cert")
    return Tls(ca, cert, key)


def security(tls: Tls | None, address: str | None = None) -> Security | None:
    """What Dask calls it; without files that of Dask's own configuration, which an address with ``tls://`` needs.

    Raises
    ------
    ConfigError
        A file is missing or is no certificate or key, or there is nothing for ``tls://``.
    """
    from distributed import Security

    if tls is None:
        if address is not None and address.startswith("tls://") and not _configured():
            raise ConfigError(
                "an address with tls:// needs certificates; give --tls-ca, --tls-cert and --tls-key, or "
                "distributed.comm.tls in the configuration of Dask"
            )
        return None
    if address is not None and address.startswith("tcp://"):
        raise ConfigError("certificates are given, but an address with tcp:// is not encrypted; write tls://host:port")
    _check(tls)
    key = tls.key or tls.cert
    shown = {f"tls_{role}_{part}": path for role in _ROLES for part, path in (("cert", tls.cert), ("key", key))}
    return Security(tls_ca_file=tls.ca, require_encryption=True, **shown)


_ROLES = ("client", "scheduler", "worker")


def _configured() -> bool:
    """Whether Dask's configuration, or a loader that it names, knows a client's certificate."""
    import dask

    found = [dask.config.get(f"distributed.comm.tls.{name}", None) for name in ("ca-file", "client.cert")]
    return all(found) or dask.config.get("distributed.client.security-loader", None) is not None


def _check(tls: Tls) -> None:
    """Read the files once; Dask would fail later, and say less."""
    for name, path in (("tls_ca", tls.ca), ("tls_cert", tls.cert), ("tls_key", tls.key)):
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"{name} is {path!r}, but there is no such file; check the path")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(tls.ca)
    except (ssl.SSLError, OSError):
        raise ConfigError(f"tls_ca {tls.ca!r} holds no certificate; expected PEM") from None
    try:
        context.load_cert_chain(tls.cert, tls.key, password="")
    except (ssl.SSLError, OSError, ValueError):
        raise ConfigError(
            f"tls_cert {tls.cert!r} and its key ({tls.key or 'in the same file'}) cannot be used; expected a "
            "certificate and the key that belongs to it, in PEM, without a password"
        ) from None
