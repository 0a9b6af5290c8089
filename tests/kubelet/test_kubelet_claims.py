"""Claims: which directory a bound claim is, and what is said until it is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubelet.volumes.claims import Backing, backing, bound_volume, claim_name, reachable, read_only
from kubelet.volumes.host import check_local
from kubelet.volumes.payload import VolumeError
from tests.kubelet.builders import pod
from tests.kubelet.world import World

VOLUME = {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}
CLAIM: dict[str, Any] = {
    "metadata": {"name": "data", "uid": "c1"},
    "spec": {"volumeName": "pv"},
    "status": {"phase": "Bound"},
}
LABELS = {"kubernetes.io/hostname": "worker-0"}


def pv(hostname: str = "worker-0", **source: Any) -> dict[str, Any]:
    rule = {"key": "kubernetes.io/hostname", "operator": "In", "values": [hostname]}
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}}
    return {"spec": {"claimRef": {"uid": "c1"}, "nodeAffinity": affinity, **source}}


def test_a_bound_claim_is_its_volume() -> None:
    assert bound_volume(pod(), VOLUME, CLAIM) == "pv"
    assert backing(CLAIM, pv(local={"path": "/d"}), "pv", LABELS) == Backing("local", {"path": "/d"})


@pytest.mark.parametrize(
    ("claim", "complaint"),
    [
        (None, 'persistentvolumeclaim "data" not found'),
        ({**CLAIM, "status": {"phase": "Pending"}}, "non-bound phase"),
        ({**CLAIM, "metadata": {**CLAIM["metadata"], "deletionTimestamp": "x"}}, "being deleted"),
    ],
)
def test_until_it_is_bound(claim: dict[str, Any] | None, complaint: str) -> None:
    with pytest.raises(VolumeError, match=complaint):
        bound_volume(pod(), VOLUME, claim)


@pytest.mark.parametrize(
    ("volume", "complaint"),
    [
        (None, "not found"),
        (pv("worker-1", local={"path": "/d"}), "another node"),
        (pv(nfs={"server": "s", "path": "/"}), r"\['nfs'\] is not supported"),
        (pv(local={"path": "/d"}, volumeMode="Block"), "volumeMode Block"),
        (pv(local={"path": "/d"}, claimRef={"uid": "other"}), "not bound to PVC"),
    ],
)
def test_volumes_that_cannot_be_mounted(volume: dict[str, Any] | None, complaint: str) -> None:
    with pytest.raises(VolumeError, match=complaint):
        backing(CLAIM, volume, "pv", LABELS)


def test_an_ephemeral_claim_must_be_the_pods_own() -> None:
    volume = {"name": "scratch", "ephemeral": {}}
    assert claim_name(pod(), volume) == "p-scratch"
    with pytest.raises(VolumeError, match="was not created for pod"):
        bound_volume(pod(), volume, CLAIM)
    owned = {**CLAIM, "metadata": {**CLAIM["metadata"], "ownerReferences": [{"uid": "uid-1"}]}}
    assert bound_volume(pod(), volume, owned) == "pv"


def test_affinity_terms_are_alternatives() -> None:
    terms = [
        {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
        {"matchExpressions": [{"key": "n", "operator": "Gt", "values": ["3"]}]},
    ]
    spec = {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}
    assert reachable(spec, {"n": "4"})
    assert not reachable(spec, {"n": "3"})
    assert reachable({}, {})


def test_a_local_directory_must_exist(tmp_path: Path) -> None:
    assert check_local({"path": str(tmp_path)}, None) == tmp_path
    with pytest.raises(VolumeError, match="does not exist"):
        check_local({"path": str(tmp_path / "none")}, None)


def test_a_pod_waits_for_its_claim_and_mounts_it(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        place = world.root / "disk"
        place.mkdir()
        volume = {"name": "v", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}}
        mount = {"name": "v", "mountPath": "/data"}
        container = {"name": "c", "image": "busybox:1.36", "volumeMounts": [mount]}
        assert read_only({"volumes": [volume]}) == {"v"}
        await world.pod("p", volumes=[volume], containers=[container])
        await world.api.until(lambda: world.api.events("FailedMount"))
        path = "/api/v1/namespaces/default/persistentvolumeclaims/data"
        held = pv(local={"path": str(place)})
        status = {"phase": "Bound"}
        made = {**held, "metadata": {"name": "pv"}, "status": status}
        await world.api.write("/api/v1/persistentvolumes/pv", made)
        claim = {"metadata": {"name": "data", "namespace": "default", "uid": "c1"}, "spec": CLAIM["spec"]}
        await world.api.write(path, {**claim, "status": status})
        await world.until_ready("p")
        (running,) = world.living()
        seen = {m.container_path: m for m in world.runtime.config_of(running).mounts}
        assert (seen["/data"].host_path, seen["/data"].readonly) == (str(place), True)

    play(scenario)
