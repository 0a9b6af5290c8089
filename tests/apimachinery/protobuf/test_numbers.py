"""Which fields have numbers: every one of the API level, so that a new kind cannot be forgotten."""

from __future__ import annotations

import pytest

from apimachinery.schema import fieldnumbers
from apimachinery.schema.table import load, ref_of

# Fields of the type source (1.37) that Kubernetes 1.34 does not have.
NEWER = """
CSIDriverSpec.preventPodSchedulingIfMissing CSIDriverSpec.serviceAccountTokenInSecrets
CSINode.status ClusterTrustBundleProjection.user ConfigMapVolumeSource.defaultUser
CustomResourceDefinitionCondition.observedGeneration
CustomResourceDefinitionStatus.observedGeneration Device.nodeAllocatableResources
DeviceAttribute.bools DeviceAttribute.ints DeviceAttribute.strings DeviceAttribute.versions
DeviceCounterConsumption.compatibilityGroups DeviceRequestAllocationResult.skipNodeOperations
DeviceSubRequest.derivedAttributes DownwardAPIVolumeFile.user DownwardAPIVolumeSource.defaultUser
EmptyDirVolumeSource.mode ExactDeviceRequest.derivedAttributes GRPCAction.mode
HTTPGetAction.protocol HorizontalPodAutoscalerCondition.observedGeneration JobSpec.scheduling
KeyToPath.user ListMeta.shardInfo NodeSpec.podPreemptionPolicy NodeStatus.declaredFeatures
NodeSystemInfo.runningInUserNamespace PersistentVolumeClaimStatus.healthStatus
PodCertificateProjection.user PodCertificateProjection.userAnnotations PodSpec.evictionResponders
PodSpec.schedulingGroup PodStatus.allocatedResources PodStatus.nodeAllocatableResourceClaimStatuses
PodStatus.resources PodStatus.volumeHealth ProjectedVolumeSource.defaultUser ResourceHealth.message
ResourceSliceSpec.partitionTypeAttribute ResourceSliceSpec.skipNodeOperations
SecretVolumeSource.defaultUser ServiceAccountTokenProjection.user TokenRequestSpec.attestations
VolumeMount.bindMountOptions VolumeMountStatus.volumeStatus
"""
NEWER_TYPES = """
CSINodeStatus ClusterTrustBundle ClusterTrustBundleList ClusterTrustBundleSpec
DeviceDerivedAttribute DeviceTaintRule DeviceTaintRuleList DeviceTaintRuleSpec DeviceTaintRuleStatus
DeviceTaintSelector EvictionResponder ImageVolumeStatus JobSchedulingConfiguration
NodeAllocatableMappedResources NodeAllocatableMapping NodeAllocatableOverhead
NodeAllocatableOverheadResources NodeAllocatableResource NodeAllocatableResourceClaimStatus
NodePodPreemptionPolicy PodCertificateRequest PodCertificateRequestList PodCertificateRequestSpec
PodCertificateRequestStatus PodSchedulingGroup PodVolumeHealth ShardInfo StorageHealth
StorageHealthCondition VolumeHealthCondition VolumeHealthStatus VolumeStatus
"""
# In the envelope (or, in a list, in each item's), not in the message.
TYPE_META = {"apiVersion", "kind"}


def test_every_field_of_the_level_has_a_number() -> None:
    bare = {
        f"{item.short}.{field.name}"
        for item in load().values()
        for field in item.fields.values()
        if not field.numbers and not (field.name in TYPE_META and (item.gvk or item.short == "DeleteOptions"))
    }
    types = set(NEWER_TYPES.split())
    assert {name for name in bare if name.partition(".")[0] not in types} == set(NEWER.split())


def test_numbered_fields_lead_to_types_with_numbers() -> None:
    table = load()
    for item in table.values():
        for field in item.fields.values():
            inner = ref_of(field.type)
            if field.numbers and inner and table[inner].fields:
                assert any(part.numbers for part in table[inner].fields.values()), (item.name, field.name)


def test_no_number_is_given_twice() -> None:
    for item in load().values():
        numbers = [field.numbers for field in item.fields.values() if field.numbers]
        assert len(numbers) == len(set(numbers)), item.name


def test_the_form_of_the_files() -> None:
    text = "Volume name +Source last=9\nSource hostPath\n    emptyDir secret=6\nEmpty\n"
    assert fieldnumbers.parse(text) == {
        "Volume": {"name": (1,), "hostPath": (2, 1), "emptyDir": (2, 2), "secret": (2, 6), "last": (9,)},
        "Source": {"hostPath": (1,), "emptyDir": (2,), "secret": (6,)},
        "Empty": {},
    }


@pytest.mark.parametrize("text", ["A a b=1\n", "A +Nowhere\n"])
def test_mistakes_in_the_files_end_the_build(text: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        fieldnumbers.parse(text)
