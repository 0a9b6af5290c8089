"""Go through the checklist on a running cluster and say, line by line, what held."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from deploy.smoke.checks import CHECKS, Context
from deploy.smoke.clients import Client, Curl, Failed, Kubectl, has_kubectl, run
from deploy.state import State
from deploy.topology import Topology
from pki import kubeconfig
from pki.ca import Authority, certificate_pem, key_pem, load_certificate, load_key
from pki.certs import Profile
from pki.files import PRIVATE, write_if_changed

UNBOUND_USER = "nobody-in-particular"


def unbound_kubeconfig(state: State, topology: Topology) -> Path:
    """A kubeconfig of a user whom the cluster knows (its CA signed) and to whom it grants nothing."""
    pki = state.root / "pki"
    authority = Authority(load_certificate(pki / "ca.pem"), load_key(pki / "ca-key.pem"))
    key = ec.generate_private_key(ec.SECP256R1())
    profile = Profile(common_name=UNBOUND_USER, lifetime=datetime.timedelta(days=1))
    document = kubeconfig.build(
        topology.name,
        topology.outside_server,
        authority.pem,
        certificate_pem(authority.issue(profile, key)),
        key_pem(key),
    )
    path = state.root / "smoke" / "unbound.kubeconfig"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_if_changed(path, kubeconfig.dump(document), PRIVATE)
    return path


def _on_host(state: State, topology_file: Path | None, host: str, argv: Sequence[str]) -> str:
    where = ["--state", str(state.root)]
    if topology_file is not None:
        where += ["--topology", str(topology_file)]
    return run([sys.executable, "-m", "deploy", *where, "exec", host, "--", *argv])


def smoke(
    state: State, topology: Topology, admin: Path, *, topology_file: Path | None = None, client_name: str = ""
) -> bool:
    """Run every check, each after the other; a failed one does not stop those that can still be tried.

    `client_name` is `kubectl` or `curl`; by default kubectl where one is installed. Returns whether all held.
    """
    client_name = client_name or ("kubectl" if has_kubectl() else "curl")
    client: Client = Kubectl(admin) if client_name == "kubectl" else Curl(admin)
    workers = [host.name for host in topology.by_role("worker")]
    context = Context(
        client=client,
        namespace=f"smoke-{os.getpid()}",
        controllers=[host.name for host in topology.by_role("controller")],
        workers=workers,
        addresses={host.name: host.address for host in topology.hosts},
        on_host=lambda host, argv: _on_host(state, topology_file, host, argv),
        unbound_kubeconfig=unbound_kubeconfig(state, topology),
        kubelet_kubeconfig=state.host(workers[0]) / "etc" / "kubernetes" / "kubelet.kubeconfig",
        outside_server=topology.outside_server,
    )
    print(f"smoke test of cluster {topology.name} with {client.name}")
    failed = 0
    try:
        for name, check in CHECKS:
            failed += not _tell(name, check, context)
    finally:
        _tidy(context)
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return failed == 0


def _tell(name: str, check: object, context: Context) -> bool:
    started = time.monotonic()
    try:
        assert callable(check)
        text, held = check(context), True
    except (Failed, KeyError, IndexError, ValueError) as error:
        text, held = f"{type(error).__name__}: {error}", False
    mark = "ok    " if held else "FAILED"
    print(f"  {mark} {time.monotonic() - started:6.1f}s  {name}: {text}", flush=True)
    return held


def _tidy(context: Context) -> None:
    try:
        context.client.delete(f"/api/v1/namespaces/{context.namespace}")
    except Failed as error:
        print(f"  namespace {context.namespace} could not be removed: {error}")
