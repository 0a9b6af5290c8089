"""Stories of workloads: the controllers that make pods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from controllers import objects as o
from controllers.cronjob import CronJobController
from controllers.daemonset import DaemonSetController
from controllers.deployment import DeploymentController
from controllers.job import JobController, indexes
from controllers.objects import Object
from controllers.replicaset import ReplicaSetController, ReplicationControllerController
from controllers.runtime import Context
from controllers.statefulset import StatefulSetController
from controllers.ttlafterfinished import TTLAfterFinishedController
from kubeclient import resources as r
from kubeclient.resources import GVR
from tests.controllers import make
from tests.controllers import test_controllers_job as jobs
from tests.controllers import test_controllers_statefulset as sets
from tests.controllers.faults.stage import Admin, Stage
from tests.controllers.faults.story import Phase, Story
from tests.controllers.world import running_status

Reached = Callable[[Admin], Awaitable[bool]]


def replicasets(ctx: Context) -> ReplicaSetController:
    return ReplicaSetController(ctx, workers=2)


def replication(ctx: Context) -> ReplicationControllerController:
    return ReplicationControllerController(ctx, workers=2)


def created(gvr: GVR, obj: Object) -> Callable[[Admin], Awaitable[Any]]:
    return lambda api: api.create(gvr, {**obj, "status": {}})


def edited(gvr: GVR, name: str, **spec: Any) -> Callable[[Admin], Awaitable[Any]]:
    return lambda api: api.patch(gvr, name, {"spec": spec})


def deleted(gvr: GVR, name: str, **options: Any) -> Callable[[Admin], Awaitable[Any]]:
    return lambda api: api.delete(gvr, name, **options)


def template(image: str) -> Object:
    return {**make.TEMPLATE, "spec": {"containers": [{"name": "c", "image": image}]}}


async def images(api: Admin) -> list[str]:
    return [pod["spec"]["containers"][0]["image"] for pod in await api.all(r.PODS)]


def sized(gvr: GVR, name: str, size: int, image: str = "web:1") -> Reached:
    """So many pods of that image, all available, and the status says so about the newest spec."""

    async def reached(api: Admin) -> bool:
        found = await api.get(gvr, name)
        status = o.status(found)
        counts = {status.get("replicas", 0), status.get("availableReplicas", 0)}
        if gvr is r.DEPLOYMENTS:
            counts.add(status.get("updatedReplicas", 0))
        if gvr is r.STATEFULSETS:
            counts.add(
                status.get("updatedReplicas", 0)
                + (status.get("currentRevision") != status.get("updateRevision"))
            )
        settled = status.get("observedGeneration") == o.generation(found)
        return counts == {size} and settled and await images(api) == [image] * size

    return reached


def daemons(count: int, image: str) -> Reached:
    async def reached(api: Admin) -> bool:
        found = await api.get(r.DAEMONSETS, "agent")
        status = o.status(found)
        counts = {status.get(part, 0) for part in ("numberAvailable", "updatedNumberScheduled")}
        settled = status.get("observedGeneration") == o.generation(found)
        return counts == {count} and settled and await images(api) == [image] * count

    return reached


def over(name: str = "sum") -> Reached:
    async def reached(api: Admin) -> bool:
        job = await api.get(r.JOBS, name)
        ended = any(o.condition_status(job, kind) == "True" for kind in ("Complete", "Failed"))
        return ended and not any(o.finalizers(pod) for pod in await api.all(r.PODS))

    return reached


async def no_jobs(api: Admin) -> bool:
    return not await api.all(r.JOBS) and not await api.all(r.PODS)


async def one_run(api: Admin) -> bool:
    """The first run is over and told; suspended since, so that the clock makes no more."""
    cron = await api.get(r.CRONJOBS, "tick")
    done = [job for job in await api.all(r.JOBS) if o.condition_status(job, "Complete") == "True"]
    return bool(done) and bool(o.status(cron).get("lastSuccessfulTime")) and not o.status(cron).get("active")


def worked(phase_of: Callable[[Object], str] = lambda _: "Succeeded") -> Callable[[Stage], Awaitable[None]]:
    """Pods run, and end as told, each as soon as it is seen running."""

    async def play(on: Stage) -> None:
        for pod in await on.admin.all(r.PODS):
            name, phase = o.name(pod), o.status(pod).get("phase", "Pending")
            if o.is_terminating(pod):
                await on.admin.delete(r.PODS, name, o.namespace(pod), gracePeriodSeconds=0)
            elif not o.spec(pod).get("nodeName"):
                await on.bind(pod)
            elif phase == "Pending":
                await on.admin.status(r.PODS, name, running_status(on.now()), o.namespace(pod))
            elif phase == "Running":
                end = phase_of(pod)
                ended = {"exitCode": int(end == "Failed"), "finishedAt": on.now(), "startedAt": on.now()}
                state = {"name": "c", "state": {"terminated": ended}, "image": "x", "imageID": "x"}
                states = [state | {"ready": False, "restartCount": 0}]
                status = {"phase": end, "containerStatuses": states, "conditions": []}
                await on.admin.status(r.PODS, name, status, o.namespace(pod))

    return play


def per_index(pod: Object) -> str:
    return "Failed" if o.annotations_of(pod)[indexes.INDEX] == "1" else "Succeeded"


async def ready_node(api: Admin, name: str, **labels: str) -> None:
    """A new node is tainted until somebody has seen that it is ready."""
    await api.create(r.NODES, make.node(name, labels=labels))
    await api.patch(r.NODES, name, {"spec": {"taints": None}})


async def two_nodes_and_daemons(api: Admin) -> None:
    for name in ("n1", "n2"):
        await ready_node(api, name)
    spec = {
        "selector": {"matchLabels": {"app": "web"}},
        "template": template("web:1"),
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
    }
    await api.create(r.DAEMONSETS, {"metadata": {"name": "agent"}, "spec": spec})


def new_job(**spec: Any) -> Object:
    body = jobs.new(**spec)
    body["spec"].pop("selector")
    return body


CLAIM = {
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}
RETENTION = {"whenDeleted": "Delete", "whenScaled": "Delete"}
STS = sets.statefulset(2, volumeClaimTemplates=[CLAIM], persistentVolumeClaimRetentionPolicy=RETENTION)
RC: Object = {
    "metadata": {"name": "rc"},
    "spec": {"replicas": 2, "selector": {"app": "web"}, "template": make.TEMPLATE},
}
CRON: Object = {
    "metadata": {"name": "tick"},
    "spec": {
        "schedule": "* * * * *",
        "jobTemplate": {"spec": {"template": {"spec": {**make.TEMPLATE["spec"], "restartPolicy": "Never"}}}},
    },
}

STORIES = {
    "replicaset": Story(
        [replicasets],
        [
            Phase(created(r.REPLICASETS, make.replicaset(size=3)), sized(r.REPLICASETS, "rs", 3)),
            Phase(edited(r.REPLICASETS, "rs", replicas=4), sized(r.REPLICASETS, "rs", 4)),
            Phase(edited(r.REPLICASETS, "rs", replicas=2), sized(r.REPLICASETS, "rs", 2)),
        ],
    ),
    "replicationcontroller": Story(
        [replication],
        [
            Phase(created(r.REPLICATIONCONTROLLERS, RC), sized(r.REPLICATIONCONTROLLERS, "rc", 2)),
            Phase(
                edited(r.REPLICATIONCONTROLLERS, "rc", replicas=1), sized(r.REPLICATIONCONTROLLERS, "rc", 1)
            ),
        ],
    ),
    "deployment": Story(
        [DeploymentController, replicasets],
        [
            Phase(created(r.DEPLOYMENTS, make.deployment(size=2)), sized(r.DEPLOYMENTS, "web", 2)),
            Phase(
                edited(r.DEPLOYMENTS, "web", template=template("web:2")),
                sized(r.DEPLOYMENTS, "web", 2, "web:2"),
            ),
            Phase(
                edited(r.DEPLOYMENTS, "web", replicas=3, template=template("web:1")),
                sized(r.DEPLOYMENTS, "web", 3),
            ),
        ],
    ),
    "daemonset": Story(
        [DaemonSetController],
        [
            Phase(two_nodes_and_daemons, daemons(2, "web:1")),
            Phase(edited(r.DAEMONSETS, "agent", template=template("web:2")), daemons(2, "web:2")),
        ],
    ),
    "statefulset": Story(
        [StatefulSetController],
        [
            Phase(created(r.STATEFULSETS, STS), sized(r.STATEFULSETS, "db", 2)),
            Phase(
                edited(r.STATEFULSETS, "db", template=template("web:2")),
                sized(r.STATEFULSETS, "db", 2, "web:2"),
            ),
            Phase(edited(r.STATEFULSETS, "db", replicas=1), sized(r.STATEFULSETS, "db", 1, "web:2")),
        ],
    ),
    "job": Story(
        [JobController],
        [Phase(created(r.JOBS, new_job(completions=4, parallelism=2)), over())],
        play=worked(),
    ),
    "indexed job": Story(
        [JobController],
        [
            Phase(
                created(
                    r.JOBS,
                    new_job(
                        completions=3,
                        parallelism=3,
                        completionMode="Indexed",
                        backoffLimitPerIndex=1,
                        backoffLimit=99,
                    ),
                ),
                over(),
            )
        ],
        play=worked(per_index),
        step=2.0,
    ),
    "ttl after finished": Story(
        [JobController, TTLAfterFinishedController],
        [
            Phase(created(r.JOBS, new_job(ttlSecondsAfterFinished=5)), over()),
            Phase(lambda api: api.get(r.JOBS, "sum"), lambda api: gone(api)),
        ],
        play=worked(),
        step=2.0,
    ),
    "cronjob": Story(
        [CronJobController, JobController],
        [Phase(created(r.CRONJOBS, CRON), one_run)],
        play=worked(),
        step=5.0,
    ),
}


async def gone(api: Admin) -> bool:
    """The job is being deleted in the foreground: what is left is the garbage collector's."""
    found = await api.get(r.JOBS, "sum")
    return not found or o.is_terminating(found)
