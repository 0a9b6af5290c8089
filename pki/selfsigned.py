"""A serving certificate in memory for a daemon that was given none, as kube-scheduler and others make one."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from pki.ca import Authority, certificate_pem, key_pem
from pki.certs import Profile, Usage


def serving_pair(name: str, addresses: tuple[str, ...] = ("127.0.0.1",)) -> tuple[bytes, bytes]:
    """Certificate chain and key (PEM) for `name`, signed by an authority nobody else has."""
    authority = Authority.create(f"{name}-ca", ec.generate_private_key(ec.SECP256R1()))
    key = ec.generate_private_key(ec.SECP256R1())
    profile = Profile(
        common_name=name, dns=("localhost", name), ips=addresses, usages=frozenset({Usage.SERVER})
    )
    return certificate_pem(authority.issue(profile, key)) + authority.pem, key_pem(key)
