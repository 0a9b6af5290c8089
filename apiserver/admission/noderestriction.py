"""NodeRestriction: a kubelet changes its own Node and the pods bound to it, nothing else
(plugin/pkg/admission/noderestriction).
"""

from __future__ import annotations

from typing import Any

from apiserver.admission.base import Plugin, forbid
from apiserver.registry.call import Call

Object = dict[str, Any]

MIRROR = "kubernetes.io/config.mirror"
RESTRICTED = "node-restriction.kubernetes.io/"
KUBELET_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
KUBELET_PREFIXES = ("kubelet.kubernetes.io/", "node.kubernetes.io/")


class NodeRestriction(Plugin):
    def handles(self, call: Call) -> bool:
        return "system:nodes" in call.user.groups

    async def validate(self, call: Call) -> None:
        node = call.user.node_name
        if not node:
            raise forbid(call, f'could not determine node from user "{call.user.name}"')
        if call.is_for("", "nodes"):
            self._node(call, node)
        elif call.is_for("", "pods"):
            await self._pod(call, node)
        elif call.is_for("", "serviceaccounts") and call.subresource == "token":
            self._token(call, node)
        elif call.is_for("coordination.k8s.io", "leases") and _key(call) != ("kube-node-lease", node):
            raise forbid(
                call,
                "can only access node lease with the same name as the requesting node in "
                'namespace "kube-node-lease"',
            )

    def _node(self, call: Call, node: str) -> None:
        if call.name != node:
            raise forbid(call, f'node "{node}" is not allowed to modify node "{call.name}"')
        if call.obj is None:
            raise forbid(call, f'node "{node}" is not allowed to delete its own Node object')
        new, old = call.obj, call.old
        if old is None:
            self._labels(call, node, _labels(new))
            if (new.get("spec") or {}).get("configSource"):
                raise forbid(call, f'node "{node}" is not allowed to create pods with a non-nil configSource')
            return
        if (new.get("spec") or {}).get("taints") != (old.get("spec") or {}).get("taints"):
            raise forbid(call, f'node "{node}" is not allowed to modify taints')
        changed = {
            key for key in _labels(new) | _labels(old) if _labels(new).get(key) != _labels(old).get(key)
        }
        self._labels(call, node, dict.fromkeys(changed, ""))
        if new["metadata"].get("ownerReferences") != old["metadata"].get("ownerReferences"):
            raise forbid(call, f'node "{node}" is not allowed to modify ownerReferences')

    @staticmethod
    def _labels(call: Call, node: str, labels: dict[str, str]) -> None:
        refused = sorted(key for key in labels if not _kubelet_may_set(key))
        if refused:
            raise forbid(call, f"is not allowed to modify labels: {', '.join(refused)}")

    async def _pod(self, call: Call, node: str) -> None:
        if call.old is None and call.obj is not None and not call.subresource:
            self._mirror(call, node, call.obj)
            return
        if call.subresource not in ("", "status", "eviction"):
            raise forbid(call, f'unexpected pod subresource "{call.subresource}"')
        pod = call.old or {}
        bound = (pod.get("spec") or {}).get("nodeName")
        if bound != node:
            verb = (
                "delete"
                if call.obj is None
                else "update status for"
                if call.subresource == "status"
                else "modify"
            )
            raise forbid(call, f'node "{node}" can only {verb} pods with spec.nodeName set to itself')
        if call.obj is not None and call.subresource == "":
            raise forbid(call, f'node "{node}" is not allowed to update pods')
        if call.obj is not None and _labels(call.obj) != _labels(pod):
            raise forbid(call, f'node "{node}" cannot update labels through pod status')

    @staticmethod
    def _mirror(call: Call, node: str, pod: Object) -> None:
        if MIRROR not in (pod["metadata"].get("annotations") or {}):
            raise forbid(
                call, f'pod does not have "{MIRROR}" annotation, node "{node}" can only create mirror pods'
            )
        if (pod.get("spec") or {}).get("nodeName") != node:
            raise forbid(call, f'node "{node}" can only create pods with spec.nodeName set to itself')
        owners = pod["metadata"].get("ownerReferences") or []
        if len(owners) != 1 or owners[0].get("kind") != "Node" or owners[0].get("name") != node:
            raise forbid(call, f'node "{node}" can only create pods with an owner reference set to itself')

    def _token(self, call: Call, node: str) -> None:
        ref = ((call.obj or {}).get("spec") or {}).get("boundObjectRef") or {}
        if ref.get("kind") != "Pod" or ref.get("apiVersion") != "v1" or not ref.get("name"):
            raise forbid(call, "node requested token not bound to a pod")
        if not ref.get("uid"):
            raise forbid(call, "node requested token with a pod binding without a uid")
        pod = self.context.cached("", "pods", call.namespace, ref["name"])
        if pod is None or pod["metadata"]["uid"] != ref["uid"]:
            raise forbid(call, "node requested token bound to a pod that does not exist")
        if (pod.get("spec") or {}).get("nodeName") != node:
            raise forbid(call, "node requested token bound to a pod scheduled on a different node")


def _key(call: Call) -> tuple[str, str]:
    return call.namespace, call.name


def _labels(obj: Object) -> dict[str, str]:
    return dict(obj["metadata"].get("labels") or {})


def _kubelet_may_set(key: str) -> bool:
    prefix = key.partition("/")[0] if "/" in key else ""
    if prefix.endswith("node-restriction.kubernetes.io"):
        return False
    ours = prefix in ("kubernetes.io", "k8s.io") or prefix.endswith((".kubernetes.io", ".k8s.io"))
    if not ours or key in KUBELET_LABELS:
        return True
    return any(f"{prefix}/" == allowed or prefix.endswith("." + allowed[:-1]) for allowed in KUBELET_PREFIXES)
