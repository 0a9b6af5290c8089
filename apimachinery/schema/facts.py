"""What the Go types of Kubernetes say and the generated Python models do not.

Keys are `Definition.field` with the short definition name (`PodSpec`), or the bare field name where the
fact holds for every field of that name. Sources: the struct tags and `+listType` markers in `k8s.io/api`
and `k8s.io/apimachinery`.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Integers are int32 unless their name is here.
INT64 = _words(
    "generation deletionGracePeriodSeconds gracePeriodSeconds observedGeneration activeDeadlineSeconds "
    "terminationGracePeriodSeconds runAsUser runAsGroup fsGroup supplementalGroups tolerationSeconds uid gid "
    "startingDeadlineSeconds sizeBytes remainingItemCount revision maxLength minLength maxItems "
    "minItems maxProperties minProperties"
)
INT64_OF = frozenset(
    {
        "ServiceAccountTokenProjection.expirationSeconds",
        "TokenRequestSpec.expirationSeconds",
        "TokenRequest.expirationSeconds",
        "DeviceAttribute.int",
        "DeviceAttribute.ints",
        "ResourcePool.resourceSliceCount",
        "ExactDeviceRequest.count",
        "DeviceSubRequest.count",
    }
)
INT32_OF = frozenset({"CertificateSigningRequestSpec.expirationSeconds"})

# Strings that are []byte in Go: base64 on the wire.
BYTES = frozenset(
    {
        "CertificateSigningRequestSpec.request",
        "CertificateSigningRequestStatus.certificate",
        "WebhookClientConfig.caBundle",
        "APIServiceSpec.caBundle",
    }
)

# Maps whose values are not strings. The models only say `dict`.
MAP_VALUES: dict[str, object] = {
    "Secret.data": "bytes",
    "ConfigMap.binaryData": "bytes",
    "CertificateSigningRequestSpec.extra": ["array", "string"],
    "SubjectAccessReviewSpec.extra": ["array", "string"],
    "UserInfo.extra": ["array", "string"],
    "PodDisruptionBudgetStatus.disruptedPods": "date-time",
    "JSONSchemaProps.definitions": ["ref", "JSONSchemaProps"],
    "JSONSchemaProps.patternProperties": ["ref", "JSONSchemaProps"],
    "JSONSchemaProps.properties": ["ref", "JSONSchemaProps"],
    "JSONSchemaProps.dependencies": "any",
    "Device.attributes": ["ref", "DeviceAttribute"],
    "Device.capacity": ["ref", "DeviceCapacity"],
    "Device.nodeAllocatableResources": ["ref", "NodeAllocatableResource"],
    "CounterSet.counters": ["ref", "Counter"],
    "DeviceCounterConsumption.counters": ["ref", "Counter"],
    **dict.fromkeys(
        (
            "ResourceRequirements.limits",
            "ResourceRequirements.requests",
            "VolumeResourceRequirements.limits",
            "VolumeResourceRequirements.requests",
            "Overhead.podFixed",
            "PodSpec.overhead",
            "NodeStatus.capacity",
            "NodeStatus.allocatable",
            "PersistentVolumeSpec.capacity",
            "PersistentVolumeClaimStatus.capacity",
            "PersistentVolumeClaimStatus.allocatedResources",
            "ContainerStatus.allocatedResources",
            "PodStatus.allocatedResources",
            "LimitRangeItem.default",
            "LimitRangeItem.defaultRequest",
            "LimitRangeItem.max",
            "LimitRangeItem.min",
            "LimitRangeItem.maxLimitRequestRatio",
            "ResourceQuotaSpec.hard",
            "ResourceQuotaStatus.hard",
            "ResourceQuotaStatus.used",
            "CapacityRequirements.requests",
            "DeviceRequestAllocationResult.consumedCapacity",
        ),
        "quantity",
    ),
}

# Free-form values: stored as they come.
RAW = frozenset({"ControllerRevision.data", "ManagedFieldsEntry.fieldsV1"})

# Optional scalars that are values, not pointers, with `omitempty`: zero means absent.
VALUE_INTEGERS = _words(
    "hostPort initialDelaySeconds timeoutSeconds periodSeconds successThreshold failureThreshold nodePort "
    "healthCheckNodePort minReadySeconds count generation observedGeneration"
)
POINTER_INTEGERS_OF = frozenset(
    {
        "JobStatus.ready",
        "JobStatus.terminating",
        "DeploymentStatus.collisionCount",
        "DeploymentStatus.terminatingReplicas",
        "DaemonSetStatus.collisionCount",
        "StatefulSetStatus.collisionCount",
        "ReplicaSetStatus.terminatingReplicas",
        "HorizontalPodAutoscalerStatus.observedGeneration",
        "HorizontalPodAutoscalerStatus.currentCPUUtilizationPercentage",
        "ListMeta.remainingItemCount",
        "ContainerStateTerminated.exitCode",
        "MetricValueStatus.averageUtilization",
    }
)
# Optional integers of these are always written, zero or not.
ALWAYS_INTEGERS_OF = frozenset({"StatefulSetStatus.availableReplicas"})
VALUE_BOOLEANS = _words(
    "hostNetwork hostPID hostIPC stdin stdinOnce tty readOnly paused unschedulable publishNotReadyAddresses "
    "globalDefault ignoreDaemonSets"
)
# Optional strings that are pointers: the empty string is a value.
POINTER_STRINGS = _words(
    "storageClassName volumeMode ingressClassName runtimeClassName appProtocol loadBalancerClass "
    "preemptionPolicy "
    "holderIdentity zone procMount fsGroupChangePolicy volumeAttributesClassName "
    "hostnameOverride"
)
POINTER_STRINGS_OF = frozenset(
    {
        "EndpointPort.name",
        "EndpointPort.protocol",
        "Endpoint.hostname",
        "Endpoint.nodeName",
        "EndpointAddress.nodeName",
        "NetworkPolicyPort.protocol",
        "Event.reportingComponent",
        "Event.reportingInstance",
        "Condition.message",
        "TypedLocalObjectReference.apiGroup",
        "TypedObjectReference.apiGroup",
        "TypedObjectReference.namespace",
    }
)

# patchStrategy and patchMergeKey: (strategies, merge key). A key is "" for lists of scalars and for structs.
PATCH: dict[str, tuple[str, str]] = {
    "ObjectMeta.ownerReferences": ("merge", "uid"),
    "ObjectMeta.finalizers": ("merge", ""),
    "PodSpec.volumes": ("merge,retainKeys", "name"),
    "PodSpec.initContainers": ("merge", "name"),
    "PodSpec.containers": ("merge", "name"),
    "PodSpec.ephemeralContainers": ("merge", "name"),
    "PodSpec.imagePullSecrets": ("merge", "name"),
    "PodSpec.hostAliases": ("merge", "ip"),
    "PodSpec.topologySpreadConstraints": ("merge", "topologyKey"),
    "PodSpec.schedulingGates": ("merge", "name"),
    "PodSpec.resourceClaims": ("merge,retainKeys", "name"),
    "PodStatus.conditions": ("merge", "type"),
    "PodStatus.podIPs": ("merge", "ip"),
    "PodStatus.hostIPs": ("merge", "ip"),
    "PodStatus.resourceClaimStatuses": ("merge,retainKeys", "name"),
    "ContainerStatus.volumeMounts": ("merge", "mountPath"),
    "ContainerStatus.allocatedResourcesStatus": ("merge", "name"),
    **{
        f"{container}.{name}": ("merge", key)
        for container in ("Container", "EphemeralContainer")
        for name, key in (
            ("ports", "containerPort"),
            ("env", "name"),
            ("volumeMounts", "mountPath"),
            ("volumeDevices", "devicePath"),
        )
    },
    "ServiceSpec.ports": ("merge", "port"),
    "ServiceStatus.conditions": ("merge", "type"),
    "ServiceAccount.secrets": ("merge", "name"),
    "NodeSpec.podCIDRs": ("merge", ""),
    "NodeStatus.conditions": ("merge", "type"),
    "NodeStatus.addresses": ("merge", "type"),
    "DeploymentSpec.strategy": ("retainKeys", ""),
    "PodDisruptionBudgetSpec.selector": ("replace", ""),
    "CSINodeSpec.drivers": ("merge", "name"),
    "ResourceClaimStatus.reservedFor": ("merge", "uid"),
    "FlowSchemaStatus.conditions": ("merge", "type"),
    "PriorityLevelConfigurationStatus.conditions": ("merge", "type"),
    "MutatingWebhookConfiguration.webhooks": ("merge", "name"),
    "ValidatingWebhookConfiguration.webhooks": ("merge", "name"),
    **{
        f"{status}.conditions": ("merge", "type")
        for status in (
            "NamespaceStatus",
            "ReplicationControllerStatus",
            "PersistentVolumeClaimStatus",
            "DeploymentStatus",
            "DaemonSetStatus",
            "ReplicaSetStatus",
            "StatefulSetStatus",
            "JobStatus",
            "HorizontalPodAutoscalerStatus",
            "PodDisruptionBudgetStatus",
            "APIServiceStatus",
        )
    },
}

# x-kubernetes-list-type: (type, keys). Lists that are not here are atomic when their elements are not
# mergeable.
LISTS: dict[str, tuple[str, tuple[str, ...]]] = {
    **{
        name: ("map", (key,))
        for name, (strategy, key) in PATCH.items()
        if key
        and not name.endswith((".ports", ".topologySpreadConstraints", "JobStatus.conditions", ".hostIPs"))
        and "merge" in strategy
    },
    "Container.ports": ("map", ("containerPort", "protocol")),
    "EphemeralContainer.ports": ("map", ("containerPort", "protocol")),
    "ServiceSpec.ports": ("map", ("port", "protocol")),
    "PodSpec.topologySpreadConstraints": ("map", ("topologyKey", "whenUnsatisfiable")),
    "CertificateSigningRequestStatus.conditions": ("map", ("type",)),
    "ResourceRequirements.claims": ("map", ("name",)),
    "ObjectMeta.finalizers": ("set", ()),
    "NodeSpec.podCIDRs": ("set", ()),
    "Endpoint.addresses": ("set", ()),
    "CSIDriverSpec.volumeLifecycleModes": ("set", ()),
    "PodFailurePolicyOnExitCodesRequirement.values": ("set", ()),
    "UncountedTerminatedPods.succeeded": ("set", ()),
    "UncountedTerminatedPods.failed": ("set", ()),
    "CustomResourceDefinitionStatus.conditions": ("map", ("type",)),
    "ServiceCIDRStatus.conditions": ("map", ("type",)),
    "FlowSchemaStatus.conditions": ("map", ("type",)),
    "PriorityLevelConfigurationStatus.conditions": ("map", ("type",)),
    "AllocatedDeviceStatus.conditions": ("map", ("type",)),
    "ResourceClaimStatus.reservedFor": ("map", ("uid",)),
    "ResourceClaimStatus.devices": ("map", ("driver", "device", "pool", "shareID")),
    "ValidatingAdmissionPolicyStatus.conditions": ("map", ("type",)),
    "ValidatingAdmissionPolicySpec.matchConditions": ("map", ("name",)),
    "ValidatingAdmissionPolicySpec.variables": ("map", ("name",)),
    "ValidatingWebhook.matchConditions": ("map", ("name",)),
    "MutatingWebhook.matchConditions": ("map", ("name",)),
    "ResourceStatus.resources": ("map", ("resourceID",)),
    "JSONSchemaProps.x-kubernetes-validations": ("map", ("rule",)),
}

# Defaults of key fields: an item that leaves the field out is known by this value.
KEY_DEFAULTS: dict[str, object] = {"ContainerPort.protocol": "TCP", "ServicePort.protocol": "TCP"}

# x-kubernetes-map-type: atomic.
ATOMIC_STRUCTS = _words(
    "LabelSelector ObjectReference LocalObjectReference SecretKeySelector ConfigMapKeySelector "
    "ObjectFieldSelector "
    "ResourceFieldSelector NodeSelector NodeSelectorTerm OwnerReference TypedLocalObjectReference "
    "SecretReference "
    "TopologySelectorTerm CrossVersionObjectReference RoleRef Subject EndpointAddress EndpointPort "
    "ScopeSelector ScopedResourceSelectorRequirement ServiceBackendPort ParamKind ParamRef MatchResources "
    "NamedRuleWithOperations FileKeySelector"
)
# Fields whose own marker says granular although their type is atomic.
GRANULAR_FIELDS = frozenset({"PersistentVolumeSpec.claimRef"})
ATOMIC_MAPS = frozenset(
    {
        "ServiceSpec.selector",
        "PodSpec.nodeSelector",
        "ReplicationControllerSpec.selector",
        "Scheduling.nodeSelector",
    }
)

# Optional struct fields that are values, not pointers: Go writes them even when they are empty. Those of
# top-level kinds (metadata, spec, status) are all of this sort and not listed; required ones neither.
VALUE_STRUCTS = frozenset(
    {
        "PodTemplateSpec.metadata",
        "PodTemplateSpec.spec",
        "JobTemplateSpec.metadata",
        "JobTemplateSpec.spec",
        "ReplicaSetSpec.template",
        "PodTemplate.template",
        "DeploymentSpec.strategy",
        "StatefulSetSpec.updateStrategy",
        "DaemonSetSpec.updateStrategy",
        "PersistentVolumeClaimSpec.resources",
        "ServiceStatus.loadBalancer",
        "IngressStatus.loadBalancer",
        "NodeStatus.daemonEndpoints",
        "NodeStatus.nodeInfo",
        "NodeDaemonEndpoints.kubeletEndpoint",
        "Event.source",
        "Event.deprecatedSource",
        "Event.regarding",
    }
)
