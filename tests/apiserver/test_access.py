"""Who may do what: RBAC, nodes, escalation, admission, and the words of refusals."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from apiserver.auth import policy, wording
from apiserver.auth.authorize import Attributes
from apiserver.auth.rules import Rule, from_dict, uncovered
from apiserver.auth.user import User
from tests.apiserver.harness import CONFIG_MAPS, DEFAULT_ACCOUNT, PODS, Harness, config_map, pod, run

BOB = User("bob", ("system:authenticated",))
NODE, OTHER = "system:node:n1;system:nodes", "system:node:n2;system:nodes"


@pytest.mark.parametrize(
    ("rule", "wanted", "allowed"),
    [
        (wording.rule("get list", "", "pods"), Attributes(BOB, "get", "", "pods", "ns"), True),
        (wording.rule("get", "", "pods"), Attributes(BOB, "get", "", "pods", "ns", "x", "log"), False),
        (wording.rule("get", "", "pods/log"), Attributes(BOB, "get", "", "pods", "ns", "x", "log"), True),
        (
            wording.rule("get", "*", "*/scale"),
            Attributes(BOB, "get", "apps", "deployments", "ns", "x", "scale"),
            True,
        ),
        (wording.rule("get", "", "pods", "a"), Attributes(BOB, "get", "", "pods", "ns", "b"), False),
        (wording.rule("*", "*", "*"), Attributes(BOB, "delete", "apps", "deployments", "ns"), True),
        (wording.url("get", "/healthz/*"), Attributes(BOB, "get", path="/healthz/etcd"), True),
        (wording.url("get", "/healthz"), Attributes(BOB, "get", path="/metrics"), False),
    ],
)
def test_rules(rule: Rule, wanted: Attributes, allowed: bool) -> None:
    assert rule.allows(wanted) is allowed


def test_uncovered_names_what_is_missing() -> None:
    held = [wording.rule("get list", "", "pods")]
    missing = uncovered([wording.rule("get delete", "", "pods secrets")], held)
    assert {(rule.verbs[0], rule.resources[0]) for rule in missing} == {
        ("get", "secrets"),
        ("delete", "pods"),
        ("delete", "secrets"),
    }


def test_every_bootstrap_role_survives_its_round_trip() -> None:
    for role in policy.cluster_roles():
        assert all(from_dict(rule).as_dict() == rule for rule in role["rules"]), role["metadata"]["name"]


BROUGHT = """
admin cluster-admin edit view system:aggregate-to-admin system:aggregate-to-edit system:aggregate-to-view
system:auth-delegator system:basic-user
system:certificates.k8s.io:certificatesigningrequests:nodeclient
system:certificates.k8s.io:certificatesigningrequests:selfnodeclient
system:certificates.k8s.io:kube-apiserver-client-approver
system:certificates.k8s.io:kube-apiserver-client-kubelet-approver
system:certificates.k8s.io:kubelet-serving-approver system:certificates.k8s.io:legacy-unknown-approver
system:discovery system:heapster system:kube-aggregator system:kube-controller-manager system:kube-dns
system:kube-scheduler system:kubelet-api-admin system:monitoring system:node system:node-bootstrapper
system:node-problem-detector system:node-proxier system:persistent-volume-provisioner
system:public-info-viewer system:service-account-issuer-discovery system:volume-scheduler
"""


def test_all_roles_are_there_that_guides_tell_to_bind() -> None:
    """The ClusterRoles of a new Kubernetes cluster, those of controllers left out."""
    names = {role["metadata"]["name"] for role in policy.cluster_roles()}
    assert {name for name in names if not name.startswith("system:controller:")} == set(BROUGHT.split())


@pytest.mark.parametrize("whose", ["nodeclient", "selfnodeclient"])
def test_a_bootstrapper_may_have_the_certificate_it_was_bound_to(whose: str) -> None:
    name = f"system:certificates.k8s.io:certificatesigningrequests:{whose}"
    [held] = policy.CLUSTER_ROLES[name]
    for asked in ("nodeclient", "selfnodeclient"):
        wanted = Attributes(
            BOB, "create", "certificates.k8s.io", "certificatesigningrequests", subresource=asked
        )
        assert held.allows(wanted) is (asked == whose)


def test_an_unbound_user_is_refused_in_kubernetes_words() -> None:
    async def test(api: Harness) -> None:
        status = await api.fails(403, "Forbidden", "GET", PODS, user="x")
        text = (
            'pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace '
            '"default"'
        )
        assert status["message"] == text
        status = await api.fails(403, "Forbidden", "GET", "/metrics", user="x")
        assert status["message"] == 'forbidden: User "x" cannot get path "/metrics"'

    run(test)


def test_a_binding_takes_effect_and_its_removal_too() -> None:
    async def test(api: Harness) -> None:
        bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings"
        ref = {"apiGroup": wording.RBAC_GROUP, "kind": "ClusterRole", "name": "view"}
        subjects = [{"kind": "User", "apiGroup": wording.RBAC_GROUP, "name": "x"}]
        await api.ok("POST", bindings, {"metadata": {"name": "b"}, "roleRef": ref, "subjects": subjects})
        await api.server.registry.reader.reach("")
        await api.ok("GET", PODS, user="x")
        await api.fails(403, "Forbidden", "GET", "/api/v1/namespaces/default/secrets", user="x")
        await api.fails(403, "Forbidden", "GET", "/api/v1/namespaces/kube-system/pods", user="x")
        await api.ok("DELETE", f"{bindings}/b")
        await api.server.registry.reader.reach("")
        await api.fails(403, "Forbidden", "GET", PODS, user="x")

    run(test)


def test_nobody_grants_more_than_they_hold() -> None:
    async def test(api: Harness) -> None:
        bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings"
        roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles"
        subjects = [{"kind": "User", "apiGroup": wording.RBAC_GROUP, "name": "x"}]
        ref = {"apiGroup": wording.RBAC_GROUP, "kind": "ClusterRole", "name": "admin"}
        await api.ok("POST", bindings, {"metadata": {"name": "b"}, "roleRef": ref, "subjects": subjects})
        await api.server.registry.reader.reach("")
        fine = {
            "metadata": {"name": "r"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
        }
        await api.ok("POST", roles, fine, user="x")
        more = {
            "metadata": {"name": "s"},
            "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
        }
        status = await api.fails(403, "Forbidden", "POST", roles, more, user="x")
        assert "attempting to grant RBAC permissions not currently held" in status["message"]
        up = {"metadata": {"name": "up"}, "roleRef": {**ref, "name": "cluster-admin"}, "subjects": subjects}
        await api.fails(403, "Forbidden", "POST", bindings, up, user="x")

    run(test)


def test_a_node_reads_only_what_its_pods_use() -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", "/api/v1/namespaces/default/serviceaccounts", DEFAULT_ACCOUNT)
        await api.ok("POST", CONFIG_MAPS, config_map("mine"))
        await api.ok("POST", CONFIG_MAPS, config_map("other"))
        volumes = [{"name": "v", "configMap": {"name": "mine"}}]
        await api.ok("POST", PODS, pod("p", node="n1", volumes=volumes))
        await api.server.registry.reader.reach("")
        await api.ok("GET", f"{CONFIG_MAPS}/mine", user=NODE)
        await api.fails(403, "Forbidden", "GET", f"{CONFIG_MAPS}/other", user=NODE)
        await api.fails(403, "Forbidden", "GET", f"{CONFIG_MAPS}/mine", user=OTHER)
        await api.fails(403, "Forbidden", "GET", "/api/v1/secrets", user=NODE)
        await api.ok("DELETE", f"{PODS}/p?gracePeriodSeconds=0")
        await api.server.registry.reader.reach("")
        await api.fails(403, "Forbidden", "GET", f"{CONFIG_MAPS}/mine", user=NODE)

    run(test)


def test_a_node_reads_its_own_pods_alone() -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", "/api/v1/namespaces/default/serviceaccounts", DEFAULT_ACCOUNT)
        for name, node in (("p1", "n1"), ("p2", "n2")):
            await api.ok("POST", PODS, pod(name, node=node))
        await api.server.registry.reader.reach("")
        every = "/api/v1/pods"
        listed = await api.ok("GET", f"{every}?fieldSelector=spec.nodeName%3Dn1", user=NODE)
        assert [item["metadata"]["name"] for item in listed["items"]] == ["p1"]
        status = await api.fails(403, "Forbidden", "GET", every, user=NODE)
        assert "can only list/watch pods with spec.nodeName field selector" in status["message"]
        for selector in ("spec.nodeName%3Dn2", "spec.nodeName%21%3Dn1", "status.phase%3DRunning"):
            await api.fails(403, "Forbidden", "GET", f"{every}?fieldSelector={selector}", user=NODE)
        await api.ok("GET", f"{PODS}/p1", user=NODE)
        await api.fails(403, "Forbidden", "GET", f"{PODS}/p2", user=NODE)
        spec = {
            "user": "system:node:n1",
            "groups": ["system:nodes"],
            "resourceAttributes": {
                "verb": "list",
                "resource": "pods",
                "version": "v1",
                "fieldSelector": {
                    "requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]
                },
            },
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        assert (await api.ok("POST", path, {"spec": spec}))["status"]["allowed"] is True
        del spec["resourceAttributes"]["fieldSelector"]  # type: ignore[attr-defined]
        assert (await api.ok("POST", path, {"spec": spec}))["status"]["allowed"] is False

    run(test)


def test_a_node_reaches_a_volume_through_the_claim_of_its_pod() -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", "/api/v1/namespaces/default/serviceaccounts", DEFAULT_ACCOUNT)
        for name, claim in (("mine", "data"), ("other", "elsewhere")):
            spec = {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/srv"},
                "claimRef": {"namespace": "default", "name": claim},
            }
            await api.ok("POST", "/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": spec})
        volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
        await api.ok("POST", PODS, pod("p", node="n1", volumes=volumes))
        await api.server.registry.reader.reach("")
        await api.ok("GET", "/api/v1/persistentvolumes/mine", user=NODE)
        await api.fails(403, "Forbidden", "GET", "/api/v1/persistentvolumes/other", user=NODE)
        await api.fails(403, "Forbidden", "GET", "/api/v1/persistentvolumes/mine", user=OTHER)

    run(test)


def test_who_asks_for_a_certificate_is_written_by_the_server() -> None:
    async def test(api: Harness) -> None:
        spec = {
            "request": base64.b64encode(signing_request()).decode(),
            "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"],
            "username": "somebody-else",
            "groups": ["system:masters"],
        }
        path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
        body = {"metadata": {"name": "c"}, "spec": spec}
        made = await api.ok("POST", path, body, user="admin;system:masters,x")
        assert made["spec"]["username"] == "admin"
        assert made["spec"]["groups"] == ["system:masters", "x", "system:authenticated"]

    run(test)


def signing_request() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(Encoding.PEM)


def test_a_node_writes_only_what_is_its_own() -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", "/api/v1/namespaces/default/serviceaccounts", DEFAULT_ACCOUNT)
        nodes = "/api/v1/nodes"
        made = await api.ok("POST", nodes, {"metadata": {"name": "n1"}}, user=NODE)
        assert made["spec"]["taints"] == [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]
        await api.fails(403, "Forbidden", "POST", nodes, {"metadata": {"name": "n3"}}, user=NODE)
        merge = {"content-type": "application/merge-patch+json"}
        ready = b'{"status":{"phase":"Running"}}'
        await api.ok("PATCH", f"{nodes}/n1/status", ready, user=NODE, headers=merge)
        await api.fails(403, "Forbidden", "PATCH", f"{nodes}/n1/status", ready, user=OTHER, headers=merge)
        taint = b'{"spec":{"taints":null}}'
        await api.fails(403, "Forbidden", "PATCH", f"{nodes}/n1", taint, user=NODE, headers=merge)
        await api.ok("POST", PODS, pod("p", node="n1"))
        await api.ok("PATCH", f"{PODS}/p/status", b'{"status":{"phase":"Running"}}', user=NODE, headers=merge)
        await api.fails(403, "Forbidden", "DELETE", f"{PODS}/p", user=OTHER)
        await api.fails(403, "Forbidden", "POST", PODS, pod("q", node="n1"), user=NODE)

    run(test)


def test_admission_of_namespaces_pods_and_priorities() -> None:
    async def test(api: Harness) -> None:
        await api.fails(404, "NotFound", "POST", "/api/v1/namespaces/nowhere/configmaps", config_map("a"))
        await api.fails(403, "Forbidden", "DELETE", "/api/v1/namespaces/default")
        status = await api.fails(403, "Forbidden", "POST", PODS, pod("p"))
        assert 'serviceaccount "default" not found' in status["message"]
        await api.ok("POST", "/api/v1/namespaces/default/serviceaccounts", DEFAULT_ACCOUNT)
        made = await api.ok("POST", PODS, pod("p"))
        mounts = made["spec"]["containers"][0]["volumeMounts"]
        assert mounts[0]["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
        assert {item["key"] for item in made["spec"]["tolerations"]} == {
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
        }
        body = pod("q")
        body["spec"]["priorityClassName"] = "system-node-critical"
        assert (await api.ok("POST", PODS, body))["spec"]["priority"] == 2_000_001_000
        body = pod("r")
        body["spec"]["priorityClassName"] = "unknown"
        await api.fails(403, "Forbidden", "POST", PODS, body)
        namespaces = "/api/v1/namespaces"
        await api.ok("POST", namespaces, {"metadata": {"name": "ending"}})
        ending = await api.ok("DELETE", f"{namespaces}/ending")
        assert ending["status"]["phase"] == "Terminating"
        await api.fails(403, "Forbidden", "POST", f"{namespaces}/ending/configmaps", config_map("a"))
        await api.ok("PUT", f"{namespaces}/ending/finalize", {"metadata": {"name": "ending"}, "spec": {}})
        await api.fails(404, "NotFound", "GET", f"{namespaces}/ending")

    run(test)


def test_reviews_answer_what_the_authorizer_would() -> None:
    async def test(api: Harness) -> None:
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        spec = {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}
        assert (await api.ok("POST", path, {"spec": spec}))["status"]["allowed"] is True
        assert (await api.ok("POST", path, {"spec": spec}, user="x"))["status"]["allowed"] is False
        await api.fails(422, "Invalid", "POST", path, {"spec": {}})
        who = await api.ok("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, user="x;a,b")
        assert who["status"]["userInfo"] == {"username": "x", "groups": ["a", "b", "system:authenticated"]}
        assert who["metadata"]["creationTimestamp"].endswith("Z")

    run(test)


def test_impersonation_needs_its_permission() -> None:
    async def test(api: Harness) -> None:
        await api.fails(403, "Forbidden", "GET", PODS, headers={"impersonate-user": "x"})
        await api.fails(403, "Forbidden", "GET", PODS, user="x", headers={"impersonate-user": "admin"})
        masters = {"impersonate-user": "y", "impersonate-group": "system:masters"}
        await api.ok("GET", PODS, headers=masters)

    run(test)
