"""The version every daemon reports: the Kubernetes API level it serves, marked as ours."""

from __future__ import annotations

import platform

GIT_VERSION = "v1.34.0+hardway"
ETCD_API_VERSION = "3.5.0"


def version_info() -> dict[str, str]:
    """The body of `/version` (apimachinery's `version.Info`)."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "major": "1",
        "minor": "34",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": f"python{platform.python_version()}",
        "compiler": platform.python_implementation(),
        "platform": f"linux/{machine}",
    }
