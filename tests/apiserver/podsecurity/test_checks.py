"""Every check of the Pod Security Standards: what it refuses, in which words, since which version."""

from __future__ import annotations

from typing import Any

import pytest

from apiserver.admission.podsecurity.policy import Standard, checks_of, policy_of, violations

Object = dict[str, Any]
SAFE = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def spec(*contexts: Object | None, **members: Any) -> Object:
    listed = [
        {"name": "abc"[at], **({"securityContext": given} if given is not None else {})}
        for at, given in enumerate(contexts or (None,))
    ]
    return {"containers": listed, **members}


def baseline(given: Object, version: str = "latest", **metadata: Any) -> str:
    return violations(Standard("baseline", version), metadata, given)


def restricted(given: Object, version: str = "latest") -> str:
    return violations(Standard("restricted", version), {}, given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            spec({"privileged": True}),
            'privileged (container "a" must not set securityContext.privileged=true)',
        ),
        (
            spec({"privileged": True}, {"privileged": True}),
            'privileged (containers "a", "b" must not set securityContext.privileged=true)',
        ),
        (spec(hostNetwork=True, hostIPC=True), "host namespaces (hostNetwork=true, hostIPC=true)"),
        (spec(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), 'hostPath volumes (volume "v")'),
        (
            {"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 80}]}]},
            'hostPort (container "a" uses hostPort 80)',
        ),
        (
            spec({"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}}),
            'non-default capabilities (container "a" must not include "SYS_ADMIN" in '
            "securityContext.capabilities.add)",
        ),
        (
            spec({"appArmorProfile": {"type": "Unconfined"}}),
            'forbidden AppArmor profile (container "a" must not set AppArmor profile type to "Unconfined")',
        ),
        (
            spec({"seLinuxOptions": {"type": "spc_t", "user": "u"}}),
            'seLinuxOptions (container "a" set forbidden securityContext.seLinuxOptions: type "spc_t"; user '
            "may not be set)",
        ),
        (
            spec({"procMount": "Unmasked"}),
            'procMount (container "a" must not set securityContext.procMount to "Unmasked")',
        ),
        (
            spec(securityContext={"seccompProfile": {"type": "Unconfined"}}),
            'seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")',
        ),
        (
            spec(
                securityContext={"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_syncookies"}]}
            ),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            spec({"windowsOptions": {"hostProcess": True}}),
            'hostProcess (container "a" must not set securityContext.windowsOptions.hostProcess=true)',
        ),
        (
            {"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "h"}}}]},
            'probe or lifecycle host (container "a" uses probe or lifecycle host "h")',
        ),
    ],
)
def test_baseline(given: Object, text: str) -> None:
    assert baseline(given) == text
    assert violations(Standard(), {}, given) == ""


def test_init_and_ephemeral_containers_count() -> None:
    for name in ("initContainers", "ephemeralContainers"):
        assert baseline({**spec(), name: [{"name": "i", "securityContext": {"privileged": True}}]})


def test_apparmor_annotations() -> None:
    key = "container.apparmor.security.beta.kubernetes.io/a"
    assert baseline(spec(), annotations={key: "localhost/x"}) == ""
    assert f'annotation {key}="unconfined"' in baseline(spec(), annotations={key: "unconfined"})


@pytest.mark.parametrize(
    ("version", "sysctl", "allowed"),
    [
        ("v1.26", "net.ipv4.ip_local_reserved_ports", False),
        ("v1.27", "net.ipv4.ip_local_reserved_ports", True),
        ("v1.28", "net.ipv4.tcp_fin_timeout", False),
        ("v1.29", "net.ipv4.tcp_fin_timeout", True),
        ("v1.32", "net.ipv4.tcp_rmem", True),
    ],
)
def test_versions(version: str, sysctl: str, allowed: bool) -> None:
    given = spec(securityContext={"sysctls": [{"name": sysctl}]})
    assert (baseline(given, version) == "") is allowed


def test_a_pod_that_says_nothing_violates_restricted_in_the_words_of_kubernetes() -> None:
    assert restricted(spec()) == (
        'allowPrivilegeEscalation != false (container "a" must set '
        "securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "
        '"a" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "a" '
        "must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "
        '"a" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
    )
    assert restricted(spec(SAFE)) == ""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"runAsUser": 0}, 'runAsUser=0 (container "a" must not set runAsUser=0)'),
        (
            {"runAsNonRoot": False},
            'runAsNonRoot != true (container "a" must not set securityContext.runAsNonRoot=false)',
        ),
        (
            {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "CHOWN"]}},
            'unrestricted capabilities (container "a" must not include "CHOWN" in '
            "securityContext.capabilities.add)",
        ),
        (
            {"seccompProfile": {"type": "Unconfined"}},
            'seccompProfile (container "a" must not set securityContext.seccompProfile.type to "Unconfined")',
        ),
    ],
)
def test_restricted(change: Object, text: str) -> None:
    assert restricted(spec({**SAFE, **change})) == text


def test_restricted_volumes_take_the_place_of_host_paths() -> None:
    volumes = [{"name": "h", "hostPath": {}}, {"name": "n", "nfs": {}}, {"name": "s", "secret": {}}]
    assert restricted(spec(SAFE, volumes=volumes)) == (
        'restricted volume types (volumes "h", "n" use restricted volume types "hostPath", "nfs")'
    )


def test_older_versions_ask_less() -> None:
    assert "runAsUser" not in [check.id for check in checks_of(Standard("restricted", "v1.22"))]
    assert restricted({**spec(), "os": {"name": "windows"}}, "v1.24") != ""
    assert "seccompProfile" not in restricted({**spec(), "os": {"name": "windows"}}, "v1.25")
    assert checks_of(Standard("restricted", "v1.99")) == checks_of(Standard("restricted"))


def test_labels() -> None:
    prefix = "pod-security.kubernetes.io/"
    policy = policy_of(
        {f"{prefix}enforce": "baseline", f"{prefix}enforce-version": "v1.30", f"{prefix}warn": "restricted"}
    )
    assert (str(policy.enforce), str(policy.warn), str(policy.audit)) == (
        "baseline:v1.30",
        "restricted:latest",
        "privileged:latest",
    )
    wrong = policy_of({f"{prefix}enforce": "strict", f"{prefix}audit-version": "1.2"})
    assert len(wrong.wrong) == 2 and wrong.enforce.level == "restricted"
