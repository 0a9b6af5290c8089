"""`make chaos` and a full power loss: what was acknowledged is there afterwards."""

from __future__ import annotations

from deploy.control import Control
from deploy.state import State
from tests.e2e.lab import Lab, eventually, run


def test_chaos_loses_nothing(lab: Lab) -> None:
    text = lab.hardway("chaos", timeout=600)
    print(text)
    assert "acknowledged writes lost: 0; watch violations: 0" in text


def test_power_loss(lab: Lab) -> None:
    """kill -9 of every host at once, then `up`: objects are back, and pods run again."""
    lab.kubectl("create", "configmap", "survivor", "--from-literal=a=b")
    lab.kubectl("create", "deployment", "again", "--image=busybox:1.35", "--", "sleep", "3600")
    lab.kubectl("rollout", "status", "deployment/again", "--timeout=90s")
    state = State("e2e", lab.state)
    names = [*(f"controller-{n}" for n in range(3)), *(f"worker-{n}" for n in range(3)), "balancer"]
    pids = [str(Control(name, state.socket(name)).pid()) for name in names]
    run(["kill", "-9", *pids])
    print(lab.hardway("up", timeout=300))
    assert lab.get("configmap", "survivor")["data"] == {"a": "b"}

    def runs() -> bool:
        pod = lab.get("pods", "-l", "app=again")["items"][0]["metadata"]["name"]
        return lab.kubectl("exec", pod, "--", "echo", "alive").strip() == "alive"

    eventually("the deployment's pod answers again", runs, 120)
    lab.kubectl("delete", "deployment/again", "configmap/survivor")
