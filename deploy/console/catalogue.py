"""The catalogue of `hardway chaos`, as the page wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.chaos import active
from deploy.chaos.catalogue import ANY, FAULTS, UNIT, Entry
from deploy.chaos.lab import Lab
from deploy.chaos.targets import Target
from deploy.console.faults import Data, Refused
from deploy.control import HostDown
from deploy.control import Refused as SupervisorRefused
from deploy.faults.fault import FaultError

# CatalogueError, TargetError and TopologyError are ValueErrors.
EXPECTED = (ValueError, FaultError, HostDown, SupervisorRefused, OSError)


@dataclass(frozen=True)
class Catalogue:
    """A Breaker over a running lab. A fault outlives the page that asked for it, so each has its time, after
    which the keeper mends it.
    """

    lab: Lab

    def kinds(self) -> Sequence[Data]:
        return [
            {
                "name": entry.name,
                "about": entry.summary,
                "lasting": entry.lasting,
                "targets": self._targets(entry),
                "settings": [
                    {
                        "name": knob.name,
                        "default": str(knob.default),
                        "help": knob.help,
                        "choices": list(knob.choices),
                    }
                    for knob in entry.parameters
                ],
            }
            for entry in FAULTS.values()
        ]

    def _targets(self, entry: Entry) -> list[str]:
        hosts = [host.name for host in self.lab.topology.hosts if entry.only in (None, host.role)]
        units = [f"{host}/{unit}" for host in hosts for unit in self.lab.units(host)]
        if entry.target == UNIT:
            return units
        if entry.target == ANY:
            return [*units, *hosts]
        return hosts

    def active(self) -> Sequence[Data]:
        return [
            {
                "id": record.id,
                "fault": record.fault,
                "target": ", ".join(record.targets),
                "until": record.until,
            }
            for record in active.active(self.lab)
        ]

    def inject(self, fault: str, target: str, seconds: float, settings: Mapping[str, str]) -> None:
        host, _, unit = target.partition("/")
        values: dict[str, Any] = dict(settings)
        try:
            self.lab.topology.host(host)
            lasting = FAULTS[fault].lasting if fault in FAULTS else False
            if lasting and not seconds:
                raise Refused(f"{fault}: say for how many seconds")
            duration = seconds if lasting else None
            active.inject(self.lab, fault, Target(host, unit or None), duration, detached=True, **values)
        except EXPECTED as error:
            raise Refused(str(error)) from error

    def undo(self, identifier: str) -> None:
        found = next((record for record in active.active(self.lab) if record.id == identifier), None)
        if found is None:
            raise Refused(f"no fault {identifier!r} is in force")
        try:
            active.undo(self.lab, found)
        except EXPECTED as error:
            raise Refused(str(error)) from error
