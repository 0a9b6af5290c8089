"""What runs containers: containerd where there is root and the packages, else the embedded runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deploy import packages, rootless
from deploy.state import State
from deploy.topology import Topology, TopologyError

# Where a kubelet says what its runtime does not isolate (kubelet.embedded): an annotation of its node.
NOT_ISOLATED = "hardway.dev/not-isolated"


@dataclass(frozen=True, slots=True)
class Choice:
    """A runtime, and why it was chosen when nobody asked for it."""

    name: str
    why: str = ""


def choose(asked: str, *, root: bool, absent: tuple[str, ...]) -> Choice:
    """The runtime for the topology's word `asked`. `absent`: programs that containerd would need.

    Pure. Raises TopologyError when containerd is asked for and cannot be.
    """
    if asked == "embedded":
        return Choice("embedded")
    if not root:
        if asked == "containerd":
            raise TopologyError("runtime: containerd needs root; without root there is embedded (or auto)")
        return Choice("embedded", "there is no root")
    if asked == "auto" and absent:
        return Choice("embedded", f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed")
    return Choice("containerd")


def absent_for_containerd() -> tuple[str, ...]:
    """What of containerd's packages is not there; those that only add to it are not asked for."""
    wanted = ("containerd", "runc", "containernetworking-plugins")
    return tuple(package.name for package in packages.missing() if package.name in wanted)


def settled(topology: Topology, state: State) -> tuple[Topology, Choice]:
    """The topology with its runtime decided. A cluster that is up keeps the one it was raised with."""
    raised = _raised_with(state)
    if raised and topology.runtime == "auto":
        return replace(topology, runtime=raised), Choice(raised)
    if raised and raised != topology.runtime:
        raise TopologyError(
            f"runtime: the cluster is up with {raised}, the topology asks for {topology.runtime}: "
            "`hardway down` first"
        )
    choice = choose(topology.runtime, root=not rootless.inside(), absent=absent_for_containerd())
    return replace(topology, runtime=choice.name), choice


def remember(state: State, topology: Topology) -> None:
    """What the cluster is raised with, for as long as it is up."""
    (state.run / "runtime").write_text(topology.runtime)


def _raised_with(state: State) -> str:
    try:
        return (state.run / "runtime").read_text()
    except OSError:
        return ""
