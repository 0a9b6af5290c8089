"""The story of a pod with devices, from its claim's making to its end."""

from __future__ import annotations

from controllers import objects as o
from controllers.resourceclaims import ResourceClaimController
from controllers.resourceclaims import plan as rc
from kubeclient import resources as r
from tests.controllers.faults.stage import Admin, Stage
from tests.controllers.faults.story import Phase, Story

REQUEST = {"name": "g", "exactly": {"deviceClassName": "gpu"}}
RESULT = {"request": "g", "driver": "gpu.example.org", "pool": "n1", "device": "gpu-0"}


async def pod_with_a_template(api: Admin) -> None:
    template = {"metadata": {"name": "gpu"}, "spec": {"spec": {"devices": {"requests": [REQUEST]}}}}
    await api.create(r.RESOURCECLAIMTEMPLATES, template)
    spec = {
        "containers": [{"name": "c", "image": "web:1", "resources": {"claims": [{"name": "gpu"}]}}],
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
    }
    await api.create(r.PODS, {"metadata": {"name": "p"}, "spec": spec})


async def claimed(api: Admin) -> bool:
    names = [o.name(claim) for claim in await api.all(r.RESOURCECLAIMS)]
    return len(names) == 1 and rc.recorded(await api.get(r.PODS, "p")) == {"gpu": names[0]}


async def allocate(api: Admin) -> None:
    """What the scheduler does, but for the reservation."""
    (claim,) = await api.all(r.RESOURCECLAIMS)
    await api.patch(r.RESOURCECLAIMS, o.name(claim), {"metadata": {"finalizers": [rc.FINALIZER]}})
    status = {"allocation": {"devices": {"results": [RESULT]}}}
    await api.status(r.RESOURCECLAIMS, o.name(claim), status)


async def reserved(api: Admin) -> bool:
    pod = await api.get(r.PODS, "p")
    return [u["uid"] for c in await api.all(r.RESOURCECLAIMS) for u in rc.users(c)] == [o.uid(pod)]


async def end(api: Admin) -> None:
    await api.status(r.PODS, "p", {"phase": "Succeeded"})


async def released(api: Admin) -> bool:
    return not await api.all(r.RESOURCECLAIMS)


async def bound(on: Stage) -> None:
    """The pod has its node once its claim is allocated; nothing runs by itself."""
    pod = await on.admin.get(r.PODS, "p")
    claims = await on.admin.all(r.RESOURCECLAIMS)
    if pod and not o.spec(pod).get("nodeName") and any(o.status(c).get("allocation") for c in claims):
        await on.bind(pod)


STORIES = {
    "devices": Story(
        [ResourceClaimController],
        [Phase(pod_with_a_template, claimed), Phase(allocate, reserved), Phase(end, released)],
        play=bound,
    )
}
