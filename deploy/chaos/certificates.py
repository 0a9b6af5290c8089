"""A daemon whose serving certificates nobody should accept: expired, or signed by somebody else."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from deploy import hosts
from deploy.chaos import daemons
from deploy.chaos.lab import Lab
from deploy.chaos.targets import Target
from deploy.faults.fault import Fault, FaultError
from pki import layout
from pki.ca import Authority, certificate_pem, load_certificate, load_key, utc_now

DAY = datetime.timedelta(days=1)


def stems(host: str, unit: str) -> dict[str, str]:
    """The unit's serving certificates: path on the host -> stem below pki/. Raises FaultError."""
    table = {
        "etcdlite": {
            "/etc/etcd/server.pem": f"{host}/etcd-server",
            "/etc/etcd/peer.pem": f"{host}/etcd-peer",
        },
        "apiserver": {"/etc/kubernetes/pki/apiserver.pem": "apiserver"},
        "kubelet": {"/etc/kubernetes/pki/kubelet.pem": f"{host}/kubelet"},
    }
    if unit not in table:
        raise FaultError(
            f"certificate: {unit} has no serving certificate (those that have: {', '.join(table)})"
        )
    return table[unit]


def forge(pki: Path, leaf: layout.Leaf, flaw: str, now: datetime.datetime) -> bytes:
    """The leaf as it is meant, with one flaw: over the same key, so that only the certificate is at fault."""
    key = load_key(pki / f"{leaf.stem}-key.pem")
    if flaw == "expired":
        authority = Authority(
            load_certificate(pki / f"{leaf.authority}.pem"), load_key(pki / f"{leaf.authority}-key.pem")
        )
        return certificate_pem(authority.issue(replace(leaf.profile, lifetime=DAY), key, now=now - 2 * DAY))
    name = layout.AUTHORITIES[leaf.authority]
    impostor = Authority.create(name, ec.generate_private_key(ec.SECP256R1()), now=now)
    return certificate_pem(impostor.issue(leaf.profile, key, now=now))


def worthless(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """Put forged certificates in place and restart the unit; undone, the true ones from the cluster's PKI."""
    host, unit = targets[0].host, str(targets[0].unit)
    pki = lab.state.root / "pki"
    files = stems(host, unit)

    def install(contents: Mapping[str, bytes]) -> None:
        daemons.stop(lab, host, unit)
        hosts.write_files(lab.root(host), {path: (data, 0o644) for path, data in contents.items()})
        daemons.start(lab, host, unit)

    def apply() -> None:
        leaves = {leaf.stem: leaf for leaf in layout.leaves(lab.topology.cluster_names())}
        now = utc_now()
        install({path: forge(pki, leaves[stem], str(values["flaw"]), now) for path, stem in files.items()})

    def undo() -> None:
        true = {path: (pki / f"{stem}.pem").read_bytes() for path, stem in files.items()}
        if lab.is_up(host):
            install(true)
            return
        # Below the host's own /etc, where its next life finds them.
        base = lab.state.host(host) / "etc"
        hosts.write_files(base, {path.removeprefix("/etc"): (data, 0o644) for path, data in true.items()})

    return Fault("certificate", apply, undo)
