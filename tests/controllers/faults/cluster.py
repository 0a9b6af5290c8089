"""Stories of what keeps a cluster in order: namespaces, accounts, certificates, services, garbage."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric import ec

from controllers import objects as o
from controllers.accounttokens import TokensController
from controllers.autoscaling import HorizontalPodAutoscalerController
from controllers.bootstraptokens import BootstrapSigner, TokenCleaner
from controllers.certificates import CSRApprover, CSRCleaner, CSRSigner
from controllers.clusterroles import ClusterRoleAggregationController
from controllers.deployment import DeploymentController
from controllers.disruption import DisruptionController
from controllers.endpoints import EndpointsController
from controllers.endpointslices import EndpointSliceController
from controllers.garbage import GarbageCollector
from controllers.legacytokens import INVALID_SINCE, TRACKING, LegacyTokenCleaner
from controllers.mirroring import EndpointSliceMirroringController
from controllers.namespace import NamespaceController
from controllers.objects import Object
from controllers.options import Options
from controllers.quota import ResourceQuotaController
from controllers.serviceaccount import RootCAPublisher, ServiceAccountController
from controllers.servicecidrs import ServiceCIDRController
from kubeclient import resources as r
from kubeclient.http1.message import Answer, Request
from pki.ca import Authority, certificate_pem, key_pem
from tests.controllers import make
from tests.controllers import test_controllers_bootstraptokens as tokens
from tests.controllers import test_controllers_certificates as certificates
from tests.controllers.faults.stage import Admin, Build
from tests.controllers.faults.story import Phase, Story
from tests.controllers.faults.workloads import Reached, created, deleted, edited, replicasets, sized

CONFIG: Object = {"metadata": {"name": "one"}, "data": {"a": "b"}}


def named(name: str, **parts: Any) -> Object:
    return {"metadata": {"name": name}, **parts}


# -- namespaces and accounts ---------------------------------------------------------------------------------


async def full_namespace(api: Admin) -> None:
    await api.create(r.NAMESPACES, named("tmp"))
    for number in range(2):
        await api.create(r.CONFIGMAPS, named(f"c{number}"), "tmp")
    await api.create(r.SECRETS, named("s"), "tmp")


async def namespace_is_empty_and_gone(api: Admin) -> bool:
    return not await api.get(r.NAMESPACES, "tmp") and not await api.all(r.SECRETS, "tmp")


async def furnished(api: Admin) -> bool:
    spaces = await api.all(r.NAMESPACES)
    accounts = {o.namespace(each) for each in await api.all(r.SERVICEACCOUNTS) if o.name(each) == "default"}
    maps = {
        o.namespace(each) for each in await api.all(r.CONFIGMAPS) if each.get("data") == {"ca.crt": "PEM"}
    }
    return accounts == maps == {o.name(each) for each in spaces}


async def rob(api: Admin) -> None:
    await api.delete(r.SERVICEACCOUNTS, "default", "extra")
    await api.patch(r.CONFIGMAPS, "kube-root-ca.crt", {"data": {"ca.crt": "false"}})


def with_keys(files: Path) -> Options:
    """A certificate authority and a key for tokens, made once."""
    cert, key = files / "ca.pem", files / "ca-key.pem"
    if not key.exists():
        private = ec.generate_private_key(ec.SECP256R1())
        authority = Authority.create("ca", private, now=dt.datetime.now(dt.UTC))
        cert.write_bytes(certificate_pem(authority.certificate))
        key.write_bytes(key_pem(private))
    return Options(
        cluster_signing_cert_file=str(cert),
        cluster_signing_key_file=str(key),
        service_account_private_key_file=str(key),
        root_ca_pem="PEM",
    )


def token_secret(name: str, account: str) -> Object:
    notes = {"kubernetes.io/service-account.name": account}
    metadata = {"name": name, "annotations": notes}
    return {"metadata": metadata, "type": "kubernetes.io/service-account-token"}


async def two_token_secrets(api: Admin) -> None:
    await api.create(r.SERVICEACCOUNTS, named("robot"))
    await api.create(r.SECRETS, token_secret("for-default", "default"))
    await api.create(r.SECRETS, token_secret("for-robot", "robot"))


def tokens_in(*names: str) -> Reached:
    async def reached(api: Admin) -> bool:
        found = {o.name(each): each.get("data") or {} for each in await api.all(r.SECRETS, "default")}
        return set(found) == set(names) and all("token" in data for data in found.values())

    return reached


DAY = 24 * 3600.0


async def old_token_secrets(api: Admin) -> None:
    """One that the account names, as old clusters made it, and one that somebody made for himself."""
    await two_token_secrets(api)
    await api.patch(r.SERVICEACCOUNTS, "robot", {"secrets": [{"name": "for-robot"}]})
    await api.patch(r.CONFIGMAPS, TRACKING, {"data": {"since": "2020-01-01"}}, "kube-system")


async def marked(api: Admin) -> bool:
    found = await api.get(r.SECRETS, "for-robot")
    return not found or INVALID_SINCE in o.labels(found)


async def only_the_other_is_left(api: Admin) -> bool:
    left = [each for each in await api.all(r.SECRETS, "default") if INVALID_SINCE not in o.labels(each)]
    return [o.name(each) for each in await api.all(r.SECRETS, "default")] == [o.name(each) for each in left]


# -- certificates --------------------------------------------------------------------------------------------


async def issued(api: Admin) -> bool:
    return bool(o.status(await api.get(r.CERTIFICATESIGNINGREQUESTS, "csr")).get("certificate"))


async def no_requests(api: Admin) -> bool:
    return not await api.all(r.CERTIFICATESIGNINGREQUESTS)


# -- bootstrap tokens ----------------------------------------------------------------------------------------


async def tokens_and_cluster_info(api: Admin) -> None:
    info = {"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": tokens.KUBECONFIG}}
    await api.create(r.CONFIGMAPS, info, "kube-public")
    await api.create(r.SECRETS, tokens.token("aaaaaa"), "kube-system")
    await api.create(r.SECRETS, tokens.token("bbbbbb", expiration="2020-01-01T00:00:00Z"), "kube-system")


async def signed(api: Admin) -> bool:
    data = (await api.get(r.CONFIGMAPS, "cluster-info", "kube-public")).get("data") or {}
    return set(data) == {"kubeconfig", "jws-kubeconfig-aaaaaa"} and len(await api.all(r.SECRETS)) == 1


# -- services ------------------------------------------------------------------------------------------------

SERVICE: Object = named("web", spec={"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]})
BARE: Object = named("by-hand", spec={"ports": [{"name": "http", "port": 80}]})
BY_HAND: Object = named(
    "by-hand", subsets=[{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"name": "http", "port": 80}]}]
)


async def service_and_pods(api: Admin) -> None:
    await api.create(r.SERVICES, SERVICE)
    await api.create(r.REPLICASETS, {**make.replicaset(size=2), "status": {}})


def reachable(count: int) -> Reached:
    async def reached(api: Admin) -> bool:
        slices = await api.all(r.ENDPOINTSLICES, "default")
        mine = [s for s in slices if o.labels(s).get("kubernetes.io/service-name") == "web"]
        ready = [e for s in mine for e in s.get("endpoints") or () if e["conditions"]["ready"]]
        subsets = (await api.get(r.ENDPOINTS, "web")).get("subsets") or []
        return len(ready) == sum(len(s.get("addresses") or ()) for s in subsets) == count

    return reached


async def endpoints_by_hand(api: Admin) -> None:
    await api.create(r.SERVICES, BARE)
    await api.create(r.ENDPOINTS, BY_HAND)


async def mirrored(api: Admin) -> bool:
    slices = await api.all(r.ENDPOINTSLICES, "default")
    return [e["addresses"] for s in slices for e in s["endpoints"]] == [["10.1.2.3"]]


RANGE: Object = named("more", spec={"cidrs": ["10.99.0.0/28"]})
INSIDE: Object = named("inside", spec={"clusterIP": "10.99.0.5", "ports": [{"port": 80}]})


async def new_range(api: Admin) -> None:
    await api.create(r.SERVICECIDRS, RANGE)


async def ready_range(api: Admin) -> bool:
    found = await api.get(r.SERVICECIDRS, "more")
    return bool(o.finalizers(found)) and o.condition_status(found, "Ready") == "True"


async def used_and_unwanted(api: Admin) -> None:
    await api.create(r.SERVICES, INSIDE)
    await api.delete(r.SERVICECIDRS, "more")


async def waiting_range(api: Admin) -> bool:
    return o.condition_status(await api.get(r.SERVICECIDRS, "more"), "Ready") == "False"


async def no_range(api: Admin) -> bool:
    return not await api.get(r.SERVICECIDRS, "more")


# -- quotas, budgets, roles, sizes ---------------------------------------------------------------------------


async def quota_and_things(api: Admin) -> None:
    await api.create(r.RESOURCEQUOTAS, named("few", spec={"hard": {"configmaps": "5", "pods": "5"}}))
    for number in range(2):
        await api.create(r.CONFIGMAPS, named(f"c{number}"))


def counted(configmaps: int) -> Reached:
    async def reached(api: Admin) -> bool:
        used = o.status(await api.get(r.RESOURCEQUOTAS, "few")).get("used")
        return bool(used == {"configmaps": str(configmaps), "pods": "0"})

    return reached


async def budget_and_pods(api: Admin) -> None:
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    await api.create(r.PODDISRUPTIONBUDGETS, named("calm", spec=spec))
    await api.create(r.REPLICASETS, {**make.replicaset(size=3), "status": {}})


async def two_may_go(api: Admin) -> bool:
    return bool(o.status(await api.get(r.PODDISRUPTIONBUDGETS, "calm")).get("disruptionsAllowed") == 2)


RULE: Object = {"apiGroups": ["x.dev"], "resources": ["things"], "verbs": ["get"]}


async def aggregated_role(api: Admin) -> None:
    rule = {"clusterRoleSelectors": [{"matchLabels": {"part-of": "all"}}]}
    await api.create(r.CLUSTERROLES, named("all", rules=[], aggregationRule=rule))
    metadata = {"name": "part", "labels": {"part-of": "all"}}
    await api.create(r.CLUSTERROLES, {"metadata": metadata, "rules": [RULE]})


async def role_has_the_rule(api: Admin) -> bool:
    return bool((await api.get(r.CLUSTERROLES, "all")).get("rules") == [RULE])


def metrics(request: Request) -> Answer:
    """Every pod of the Deployment uses two thirds more than it asked for."""
    usage = {"containers": [{"name": "c", "usage": {"cpu": "100m"}}]}
    items = [{"metadata": {"name": f"web-{n}"}, **usage} for n in range(2)]
    return Answer(200, content=orjson.dumps({"kind": "PodMetricsList", "metadata": {}, "items": items}))


async def busy_deployment(api: Admin) -> None:
    container = {"name": "c", "image": "web:1", "resources": {"requests": {"cpu": "60m"}}}
    template = {**make.TEMPLATE, "spec": {"containers": [container]}}
    await api.create(r.DEPLOYMENTS, {**make.deployment(size=2, template=template), "status": {}})
    for number in range(2):
        pod = {"metadata": {"name": f"web-{number}", "labels": {"app": "web"}}, "spec": template["spec"]}
        await api.create(r.PODS, pod)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    resource = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3}
    spec |= {"metrics": [{"type": "Resource", "resource": resource}]}
    await api.create(r.HORIZONTALPODAUTOSCALERS, named("web", spec=spec))
    await api.status(r.DEPLOYMENTS, "web", {"replicas": 2})


async def scaled_to_three(api: Admin) -> bool:
    hpa = await api.get(r.HORIZONTALPODAUTOSCALERS, "web")
    enough = o.replicas(await api.get(r.DEPLOYMENTS, "web")) == 3 == o.status(hpa).get("currentReplicas")
    return enough and [c["status"] for c in o.status(hpa)["conditions"]] == ["True"] * 3


# -- garbage -------------------------------------------------------------------------------------------------


async def no_workload(api: Admin) -> bool:
    left = [await api.all(gvr, "default") for gvr in (r.DEPLOYMENTS, r.REPLICASETS, r.PODS)]
    return left == [[], [], []]


async def pods_are_orphans(api: Admin) -> bool:
    sets = await api.all(r.REPLICASETS, "default")
    pods = await api.all(r.PODS, "default")
    return not sets and len(pods) == 2 and not any(o.owner_references(pod) for pod in pods)


DEPLOYED = Phase(created(r.DEPLOYMENTS, make.deployment(size=2)), sized(r.DEPLOYMENTS, "web", 2))
WORKING: Sequence[Build] = (DeploymentController, replicasets, GarbageCollector)

STORIES = {
    "namespace": Story(
        [NamespaceController],
        [
            Phase(full_namespace, lambda api: api.get(r.NAMESPACES, "tmp")),
            Phase(deleted(r.NAMESPACES, "tmp"), namespace_is_empty_and_gone),
        ],
        leaves_nothing=True,
    ),
    "accounts and root CA": Story(
        [ServiceAccountController, RootCAPublisher],
        [
            Phase(lambda api: api.create(r.NAMESPACES, named("extra")), furnished),
            Phase(rob, furnished),
        ],
        options=with_keys,
    ),
    "tokens": Story(
        [TokensController],
        [
            Phase(two_token_secrets, tokens_in("for-default", "for-robot")),
            Phase(deleted(r.SERVICEACCOUNTS, "robot"), tokens_in("for-default")),
        ],
        options=with_keys,
    ),
    "old tokens": Story(
        [TokensController, LegacyTokenCleaner],
        [
            Phase(old_token_secrets, marked),
            Phase(lambda api: api.get(r.SECRETS, "for-robot"), only_the_other_is_left),
        ],
        options=lambda files: replace(with_keys(files), legacy_service_account_token_clean_up_period=2 * DAY),
        step=DAY / 2,
    ),
    "range of addresses": Story(
        [ServiceCIDRController],
        [
            Phase(new_range, ready_range),
            Phase(used_and_unwanted, waiting_range),
            Phase(deleted(r.SERVICES, "inside"), no_range),
        ],
        step=5.0,
        leaves_nothing=True,
    ),
    "certificates": Story(
        [CSRApprover, CSRSigner, CSRCleaner],
        [
            Phase(created(r.CERTIFICATESIGNINGREQUESTS, certificates.csr()), issued),
            Phase(lambda api: api.get(r.CERTIFICATESIGNINGREQUESTS, "csr"), no_requests),
        ],
        options=with_keys,
        step=120.0,
        leaves_nothing=True,
    ),
    "bootstrap tokens": Story([BootstrapSigner, TokenCleaner], [Phase(tokens_and_cluster_info, signed)]),
    "endpoints and slices": Story(
        [EndpointsController, EndpointSliceController, replicasets],
        [
            Phase(service_and_pods, reachable(2)),
            Phase(edited(r.REPLICASETS, "rs", replicas=3), reachable(3)),
        ],
    ),
    "mirrored endpoints": Story([EndpointSliceMirroringController], [Phase(endpoints_by_hand, mirrored)]),
    "quota": Story(
        [ResourceQuotaController],
        [Phase(quota_and_things, counted(2)), Phase(deleted(r.CONFIGMAPS, "c1"), counted(1))],
        step=5.0,
    ),
    "budget": Story([DisruptionController, replicasets], [Phase(budget_and_pods, two_may_go)]),
    "cluster roles": Story([ClusterRoleAggregationController], [Phase(aggregated_role, role_has_the_rule)]),
    "autoscaler": Story(
        [HorizontalPodAutoscalerController],
        [Phase(busy_deployment, scaled_to_three)],
        answers={"/apis/metrics.k8s.io/v1beta1/namespaces/default/pods": metrics},
        step=5.0,
    ),
    "garbage in the background": Story(
        WORKING, [DEPLOYED, Phase(deleted(r.DEPLOYMENTS, "web"), no_workload)], leaves_nothing=True
    ),
    "garbage in the foreground": Story(
        WORKING,
        [DEPLOYED, Phase(deleted(r.DEPLOYMENTS, "web", propagationPolicy="Foreground"), no_workload)],
        leaves_nothing=True,
    ),
    "orphans": Story(
        [replicasets, GarbageCollector],
        [
            Phase(created(r.REPLICASETS, make.replicaset(size=2)), sized(r.REPLICASETS, "rs", 2)),
            Phase(deleted(r.REPLICASETS, "rs", propagationPolicy="Orphan"), pods_are_orphans),
        ],
    ),
}
