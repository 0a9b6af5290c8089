"""A namespace of its own for the tests of one file, and kubectl inside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e.lab import Lab, Object, eventually

WAIT = "--timeout=90s"


@dataclass(frozen=True)
class Space:
    lab: Lab
    name: str

    def kubectl(self, *arguments: str, **options: Any) -> str:
        return self.lab.kubectl("-n", self.name, *arguments, **options)

    def apply(self, *manifests: str) -> None:
        for each in manifests:
            self.kubectl("apply", "-f", "-", stdin=each)

    def get(self, *arguments: str) -> Object:
        return self.lab.get("-n", self.name, *arguments)

    def items(self, *arguments: str) -> list[Object]:
        found: list[Object] = self.get(*arguments)["items"]
        return found

    def names(self, *arguments: str) -> list[str]:
        return [item["metadata"]["name"] for item in self.items(*arguments)]

    def living(self, app: str) -> list[Object]:
        """The pods labelled so that are not on their way out."""
        return [p for p in self.items("pods", "-l", f"app={app}") if "deletionTimestamp" not in p["metadata"]]

    def volumes(self) -> list[Object]:
        """The PersistentVolumes that claims of this namespace have, or had."""
        found = self.lab.get("pv")["items"]
        return [pv for pv in found if pv["spec"].get("claimRef", {}).get("namespace") == self.name]

    def rolled_out(self, what: str) -> str:
        return self.kubectl("rollout", "status", what, WAIT)

    def wait(self, condition: str, *what: str) -> str:
        return self.kubectl("wait", f"--for={condition}", *what, WAIT)

    def reasons(self, about: str) -> set[str]:
        """Reasons of the events about the object of that name."""
        events = self.items("events", f"--field-selector=involvedObject.name={about}")
        return {event["reason"] for event in events}


@contextmanager
def space(lab: Lab, name: str) -> Iterator[Space]:
    """The namespace is deleted with everything in it, and must be gone in a minute."""
    lab.kubectl("create", "namespace", name)
    made = Space(lab, name)
    eventually("the default service account", lambda: "default" in made.names("serviceaccounts"))
    try:
        yield made
    finally:
        lab.kubectl("delete", "namespace", name, "--timeout=90s")
