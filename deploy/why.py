"""`hardway why <pod>`: ask the scheduler that decided how each node was judged and rated.

Every scheduler is asked inside its host's network namespace, with the administrator's certificate; only the
one that leads remembers decisions.
"""

from __future__ import annotations

import http.client
import ssl
import urllib.parse

from deploy import probes
from deploy.api import tls_context
from deploy.control import Control, HostDown
from deploy.state import State
from deploy.topology import Topology
from pki.kubeconfig import load

PORT = 10259
TIMEOUT = 15.0
"""Seconds. A scheduler may be in the middle of a burst, and on a busy machine a handshake takes its time."""


class Unknown(ValueError):
    """No scheduler has an answer; says what each of them said."""


def ask(topology: Topology, state: State, pod: str) -> str:
    """The table for `namespace/name` (namespace `default` if left out). Raises Unknown."""
    key = pod if "/" in pod else f"default/{pod}"
    context = tls_context(load(state.root / "pki" / "admin.kubeconfig"))
    # The serving certificate is made anew at every start and proves nothing; the namespace does.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    said = []
    for host in topology.by_role("controller"):
        try:
            namespace = f"/proc/{Control(host.name, state.socket(host.name)).pid()}/ns/net"
            path = "/debug/why/" + urllib.parse.quote(key)
            status, body = probes.fetch(namespace, "127.0.0.1", PORT, path, context, TIMEOUT)
        except (HostDown, OSError, http.client.HTTPException) as error:
            said.append(f"{host.name}: {error or type(error).__name__}")
            continue
        text = body.decode(errors="replace").strip()
        if status == 200:
            return text
        said.append(f"{host.name}: {status} {text}")
    raise Unknown("\n".join(said))
