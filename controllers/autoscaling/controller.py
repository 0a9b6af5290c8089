"""The HorizontalPodAutoscaler loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from apimachinery import errors, quantity, selectors
from componentbase.flags import parse_duration
from controllers import objects as o
from controllers.autoscaling import behavior as hb
from controllers.autoscaling.calculator import NoMetric, Proposal, Samples, Tuning, resource_proposal
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found, in_namespace
from controllers.scaletargets import NoScale, ScaleTargets
from kubeclient.resources import GVR, HORIZONTALPODAUTOSCALERS, PODS

POD_METRICS = GVR("metrics.k8s.io", "v1beta1", "pods", True, "PodMetrics")
ZERO = "scaling is disabled since the replica count of the target is zero"
_NOT_READ = {"Pods": "custom", "Object": "custom", "External": "external"}


@dataclass(slots=True)
class Memory:
    """What is remembered of one autoscaler; a new manager starts with the current size."""

    generation: int = -1
    due: float = 0.0
    history: hb.History = field(default_factory=hb.History)


def samples_of(metrics: Sequence[Object], resource: str, container: str = "") -> Samples:
    """Each pod's use over its containers (or of one), as metrics.k8s.io states it."""
    values, since = {}, {}
    for entry in metrics:
        used = [c for c in entry.get("containers") or () if not container or c.get("name") == container]
        found = [c["usage"][resource] for c in used if resource in (c.get("usage") or {})]
        if found and len(found) == len(used):
            values[o.name(entry)] = sum(quantity.parse(str(text)).milli() for text in found)
            if entry.get("timestamp"):
                window = parse_duration(str(entry.get("window") or "0s"))
                since[o.name(entry)] = o.parse_time(entry["timestamp"]) - window
    return Samples(values, since)


class HorizontalPodAutoscalerController(Controller):
    name: ClassVar[str] = "horizontal-pod-autoscaler-controller"
    account: ClassVar[str] = "horizontal-pod-autoscaler"

    def __init__(self, ctx: Context) -> None:
        workers = ctx.options.concurrent_horizontal_pod_autoscaler_syncs
        super().__init__(ctx, workers=workers, component="horizontal-pod-autoscaler")
        self.scalers = self.watch(HORIZONTALPODAUTOSCALERS, self.enqueue)
        self.pods = ctx.informers.informer(PODS)
        self.targets = ScaleTargets(self.client)
        self._memory: dict[str, Memory] = {}
        options = ctx.options
        self.tuning = Tuning(
            options.horizontal_pod_autoscaler_tolerance,
            options.horizontal_pod_autoscaler_cpu_initialization_period,
            options.horizontal_pod_autoscaler_initial_readiness_delay,
        )

    async def sync(self, key: str) -> float | None:
        """Every period, and at once when the spec has changed; an event of its own status is no reason."""
        hpa = self.scalers.store.get(key)
        if hpa is None:
            self._memory.pop(key, None)
            return None
        memory, now = self._memory.setdefault(key, Memory()), self.clock.monotonic()
        if o.generation(hpa) == memory.generation and now < memory.due:
            return memory.due - now
        period = self.ctx.options.horizontal_pod_autoscaler_sync_period
        memory.generation, memory.due = o.generation(hpa), now + period
        status = await self._reconcile(hpa, memory)
        if status != o.status(hpa):
            await ignore_not_found(
                self.client.update(HORIZONTALPODAUTOSCALERS, o.with_status(hpa, status), subresource="status")
            )
        return period

    async def _reconcile(self, hpa: Object, memory: Memory) -> Object:
        """One look at the target and its metrics; the new status."""
        ref = o.spec(hpa)["scaleTargetRef"]
        status = {**o.status(hpa), "observedGeneration": o.generation(hpa)}
        try:
            gvr, scale = await self.targets.get(
                ref.get("apiVersion", ""), ref["kind"], o.namespace(hpa), ref["name"]
            )
        except (NoScale, errors.StatusError) as error:
            self.warn(hpa, HORIZONTALPODAUTOSCALERS, "FailedGetScale", str(error))
            text = f"the HPA controller was unable to get the target's current scale: {error}"
            return self._with(status, "AbleToScale", "False", "FailedGetScale", text)
        text = "the HPA controller was able to get the target's current scale"
        status = self._with(status, "AbleToScale", "True", "SucceededGetScale", text)
        current = int(o.spec(scale).get("replicas") or 0)
        status["currentReplicas"] = current
        if current == 0 and int(o.spec(hpa).get("minReplicas", 1)) != 0:
            status["desiredReplicas"] = 0
            return self._with(status, "ScalingActive", "False", "ScalingDisabled", ZERO)
        return await self._decide(hpa, memory, gvr, scale, status)

    async def _decide(self, hpa: Object, memory: Memory, gvr: GVR, scale: Object, status: Object) -> Object:
        current = int(o.spec(scale)["replicas"])
        least, most = int(o.spec(hpa).get("minReplicas", 1)), int(o.spec(hpa)["maxReplicas"])
        if current > most:
            return await self._rescale(
                hpa, gvr, scale, most, "Current number of replicas above Spec.MaxReplicas", status
            )
        if current < least:
            return await self._rescale(
                hpa, gvr, scale, least, "Current number of replicas below Spec.MinReplicas", status
            )
        try:
            proposals = await self._proposals(hpa, scale, current)
        except NoMetric as error:
            self.warn(hpa, HORIZONTALPODAUTOSCALERS, "FailedComputeMetricsReplicas", str(error))
            text = f"the HPA was unable to compute the replica count: {error}"
            return self._with(status, "ScalingActive", "False", error.reason, text)
        best = max(proposals, key=lambda proposal: proposal.replicas)
        status["currentMetrics"] = [proposal.status for proposal in proposals]
        text = f"the HPA was able to successfully calculate a replica count from {best.name}"
        status = self._with(status, "ScalingActive", "True", "ValidMetricFound", text)
        limited = self._limit(hpa, memory, current, best.replicas)
        status = self._with(status, "AbleToScale", *limited.able)
        status = self._with(status, "ScalingLimited", *limited.limited)
        reason = "All metrics below target" if limited.replicas < current else f"{best.name} above target"
        status = await self._rescale(hpa, gvr, scale, limited.replicas, reason, status)
        if status["desiredReplicas"] != current:
            self._remember(hpa, memory, limited.replicas - current)
        return status

    # -- metrics ---------------------------------------------------------------------------------------------

    async def _proposals(self, hpa: Object, scale: Object, current: int) -> list[Proposal]:
        """What each metric asks for; with one unread there are never fewer replicas. Raises NoMetric."""
        metrics = o.spec(hpa).get("metrics") or ()
        found: list[Proposal] = []
        failures: list[NoMetric] = []
        for metric in metrics:
            try:
                found.append(await self._proposal(hpa, scale, current, metric))
            except NoMetric as error:
                failures.append(error)
                self.warn(hpa, HORIZONTALPODAUTOSCALERS, error.reason, str(error))
        if failures and (not found or max(p.replicas for p in found) < current):
            counts = f"{len(failures)} invalid out of {len(metrics)}"
            text = f"invalid metrics ({counts}), first error is: {failures[0]}"
            raise NoMetric(failures[0].reason, text)
        return found

    async def _proposal(self, hpa: Object, scale: Object, current: int, metric: Object) -> Proposal:
        kind = metric["type"]
        if kind in _NOT_READ:
            text = f"unable to fetch metrics from {_NOT_READ[kind]} metrics API: this manager reads none"
            raise NoMetric(f"FailedGet{kind}Metric", text)
        container = (metric.get("containerResource") or {}).get("container", "")
        source = metric["containerResource"] if kind == "ContainerResource" else metric["resource"]
        selector = str(o.status(scale).get("selector") or "")
        if not selector:
            raise NoMetric("InvalidSelector", "the HPA target's scale is missing a selector")
        samples = samples_of(await self._fetch(hpa, selector, source["name"]), source["name"], container)
        matches = selectors.parse_label_selector(selector).matches
        mine = [p for p in in_namespace(self.pods, o.namespace(hpa)) if matches(o.labels(p))]
        now = self.clock.now()
        return resource_proposal(source, mine, samples, current, self.tuning, now, container)

    async def _fetch(self, hpa: Object, selector: str, resource: str) -> Sequence[Object]:
        begin = f"failed to get {resource} utilization: unable to get metrics for resource {resource}: "
        try:
            answer = await self.client.list(POD_METRICS, o.namespace(hpa), label_selector=selector)
        except errors.StatusError as error:
            text = (
                f"{begin}unable to fetch metrics from resource metrics API: {error} (get pods.metrics.k8s.io)"
            )
            raise NoMetric("FailedGetResourceMetric", text) from error
        items: Sequence[Object] = answer.get("items") or ()
        if not items:
            raise NoMetric("FailedGetResourceMetric", begin + "no metrics returned from resource metrics API")
        return items

    # -- acting ----------------------------------------------------------------------------------------------

    def _limit(self, hpa: Object, memory: Memory, current: int, desired: int) -> hb.Limited:
        window = self.ctx.options.horizontal_pod_autoscaler_downscale_stabilization
        now, history = self.clock.now(), memory.history
        oldest = now - hb.longest_window(hpa, window)
        recommended = history.recommended or [hb.Mark(now, current)]
        memory.history = hb.History(
            [mark for mark in recommended if mark.at > oldest] + [hb.Mark(now, desired)],
            [mark for mark in history.raised if mark.at > oldest],
            [mark for mark in history.lowered if mark.at > oldest],
        )
        return hb.compute(hpa, current, desired, memory.history, window, now)

    def _remember(self, hpa: Object, memory: Memory, change: int) -> None:
        old, mark = memory.history, hb.Mark(self.clock.now(), abs(change))
        raised = [*old.raised, mark] if change > 0 else old.raised
        lowered = [*old.lowered, mark] if change < 0 else old.lowered
        memory.history = hb.History(old.recommended, raised, lowered)

    async def _rescale(
        self, hpa: Object, gvr: GVR, scale: Object, wanted: int, reason: str, status: Object
    ) -> Object:
        """Set the size, if it differs, against the version that was read."""
        current = int(o.spec(scale)["replicas"])
        status = {**status, "desiredReplicas": wanted}
        if wanted == current:
            return status
        try:
            await self.targets.set(gvr, scale, wanted)
        except errors.StatusError as error:
            text = f"New size: {wanted}; reason: {reason}; error: {error}"
            self.warn(hpa, HORIZONTALPODAUTOSCALERS, "FailedRescale", text)
            status = {**status, "desiredReplicas": current}
            text = f"the HPA controller was unable to update the target scale: {error}"
            return self._with(status, "AbleToScale", "False", "FailedUpdateScale", text)
        text = f"New size: {wanted}; reason: {reason}"
        self.event(hpa, HORIZONTALPODAUTOSCALERS, "SuccessfulRescale", text)
        status["lastScaleTime"] = o.format_time(self.clock.now())
        text = f"the HPA controller was able to update the target scale to {wanted}"
        return self._with(status, "AbleToScale", "True", "SucceededRescale", text)

    def _with(self, status: Mapping[str, object], kind: str, value: str, reason: str, message: str) -> Object:
        """The status with one condition; its transition time moves only with its status."""
        old: Sequence[Object] = status.get("conditions") or []  # type: ignore[assignment]
        found = o.find_condition(old, kind) or {}
        same = found.get("status") == value
        stamp = found["lastTransitionTime"] if same else o.format_time(self.clock.now())
        new = {
            "type": kind,
            "status": value,
            "lastTransitionTime": stamp,
            "reason": reason,
            "message": message,
        }
        return {**status, "conditions": o.set_condition(old, new)}
