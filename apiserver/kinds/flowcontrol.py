"""FlowSchemas and PriorityLevelConfigurations (flowcontrol.apiserver.k8s.io/v1), for flowcontrol/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log2
from typing import Any

from apimachinery import field
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.flowcontrol import defaults
from apiserver.kinds import common
from apiserver.kinds.common import NONE, column, dig, spec_of, status_of

GROUP = "flowcontrol.apiserver.k8s.io"
DANGLING = "Dangling"
PRECEDENCE, MAX_PRECEDENCE = 1000, 10_000
SHARES, QUEUES, HAND_SIZE, LENGTH_LIMIT = 30, 64, 8, 50
MAX_QUEUES, MAX_HAND_BITS = 10_000_000, 60
VERBS = (*("create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"), "*")
SUBJECTS = {"Group": "group", "ServiceAccount": "serviceAccount", "User": "user"}


# -- FlowSchema ---------------------------------------------------------------------------------------------


def _default_schema(schema: Object) -> None:
    spec = common.spec_for(schema)
    spec.setdefault("matchingPrecedence", PRECEDENCE)


def _validate_schema(schema: Object) -> Iterator[Cause]:
    spec, name = spec_of(schema), schema["metadata"].get("name", "")
    precedence = spec.get("matchingPrecedence", 0)
    if not 1 <= precedence <= MAX_PRECEDENCE:
        detail = f"must be between 1 and {MAX_PRECEDENCE}"
        yield field.invalid("spec.matchingPrecedence", precedence, detail)
    if precedence == 1 and name != "exempt":
        detail = "only the schema named 'exempt' may have matchingPrecedence 1"
        yield field.invalid("spec.matchingPrecedence", precedence, detail)
    by = spec.get("distinguisherMethod")
    if by is not None:
        yield from common.one_of("spec.distinguisherMethod.type", by.get("type"), ("ByNamespace", "ByUser"))
    level = dig(spec, "priorityLevelConfiguration", "name")
    if not level:
        yield field.required("spec.priorityLevelConfiguration.name", "must reference a priority level")
    else:
        yield from common.subdomain("spec.priorityLevelConfiguration.name", level)
    for at, rule in enumerate(spec.get("rules") or ()):
        yield from _rule(rule, f"spec.rules[{at}]")
    yield from _mandatory(schema, defaults.SCHEMAS)


def _rule(rule: Mapping[str, Any], path: str) -> Iterator[Cause]:
    if not rule.get("subjects"):
        yield field.required(f"{path}.subjects", "subjects must contain at least one value")
    for at, subject in enumerate(rule.get("subjects") or ()):
        yield from _subject(subject, f"{path}.subjects[{at}]")
    if not rule.get("resourceRules") and not rule.get("nonResourceRules"):
        yield field.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty")
    for at, item in enumerate(rule.get("resourceRules") or ()):
        yield from _resource_rule(item, f"{path}.resourceRules[{at}]")
    for at, item in enumerate(rule.get("nonResourceRules") or ()):
        yield from _verbs(item, f"{path}.nonResourceRules[{at}]")
        yield from _paths(item.get("nonResourceURLs") or [], f"{path}.nonResourceRules[{at}].nonResourceURLs")


def _subject(subject: Mapping[str, Any], path: str) -> Iterator[Cause]:
    kind = subject.get("kind", "")
    if kind not in SUBJECTS:
        yield field.not_supported(f"{path}.kind", kind, SUBJECTS)
        return
    for other, member in SUBJECTS.items():
        given = subject.get(member)
        if other == kind and given is None:
            yield field.required(f"{path}.{member}", f"{member} is required when subject kind is '{kind}'")
        elif other == kind and not (given or {}).get("name"):
            yield field.required(f"{path}.{member}.name")
        elif other != kind and given is not None:
            yield field.forbidden(
                f"{path}.{member}", f"{member} is forbidden when subject kind is not '{other}'"
            )
    if kind == "ServiceAccount" and not dig(subject, "serviceAccount", "namespace"):
        yield field.required(f"{path}.serviceAccount.namespace", "must specify namespace for service account")


def _resource_rule(rule: Mapping[str, Any], path: str) -> Iterator[Cause]:
    yield from _verbs(rule, path)
    for name in ("apiGroups", "resources"):
        values = rule.get(name) or []
        if not values:
            yield field.required(f"{path}.{name}")
        if "*" in values and len(values) > 1:
            yield field.invalid(f"{path}.{name}", values, "if '*' is present, must not specify other values")
    if not rule.get("namespaces") and not rule.get("clusterScope"):
        detail = "resource rules that are not cluster scoped must supply at least one namespace"
        yield field.required(f"{path}.namespaces", detail)


def _verbs(rule: Mapping[str, Any], path: str) -> Iterator[Cause]:
    verbs = rule.get("verbs") or []
    if not verbs:
        yield field.required(f"{path}.verbs", "verbs must contain at least one value")
    if "*" in verbs and len(verbs) > 1:
        yield field.invalid(f"{path}.verbs", verbs, "if '*' is present, must not specify other verbs")
    unknown = [verb for verb in verbs if verb not in VERBS and path.rpartition(".")[2].startswith("resource")]
    if unknown:
        yield field.not_supported(f"{path}.verbs", verbs, sorted(VERBS))


def _paths(urls: list[str], path: str) -> Iterator[Cause]:
    if not urls:
        yield field.required(path, "nonResourceURLs must contain at least one value")
    for at, url in enumerate(urls):
        if url == "*":
            continue
        if not url.startswith("/"):
            yield field.invalid(f"{path}[{at}]", url, "must start with '/'")
        elif "//" in url or "*" in url[:-1] or (url.endswith("*") and not url.endswith("/*")):
            yield field.invalid(f"{path}[{at}]", url, "wildcard can only do suffix matching of path elements")


def _missing_level(schema: Object) -> str:
    conditions = status_of(schema).get("conditions") or ()
    found = next((item for item in conditions if item.get("type") == DANGLING), None)
    return str(found.get("status", "?")) if found else "?"


# -- PriorityLevelConfiguration -----------------------------------------------------------------------------


def _default_level(level: Object) -> None:
    spec = common.spec_for(level)
    if spec.get("type") == "Exempt":
        exempt = spec.get("exempt") or {}
        spec["exempt"] = {"nominalConcurrencyShares": 0, "lendablePercent": 0, **exempt}
    limited = spec.get("limited")
    if spec.get("type") != "Limited" or limited is None:
        return
    limited.setdefault("nominalConcurrencyShares", SHARES)
    limited.setdefault("lendablePercent", 0)
    queuing = dig(limited, "limitResponse", "queuing")
    if queuing is not None:
        for name, value in (
            ("queues", QUEUES),
            ("handSize", HAND_SIZE),
            ("queueLengthLimit", LENGTH_LIMIT),
        ):
            queuing[name] = queuing.get(name) or value


def _validate_level(level: Object) -> Iterator[Cause]:
    spec = spec_of(level)
    kind, limited, exempt = spec.get("type", ""), spec.get("limited"), spec.get("exempt")
    yield from common.one_of("spec.type", kind, ("Exempt", "Limited"))
    if kind == "Exempt":
        if level["metadata"].get("name") != "exempt":
            detail = "must be 'Limited': only the level named 'exempt' is exempt"
            yield field.invalid("spec.type", kind, detail)
        if limited is not None:
            yield field.forbidden("spec.limited", "must be nil if the type is not Limited")
        yield from _lending(exempt or {}, "spec.exempt")
    elif kind == "Limited":
        if exempt is not None:
            yield field.forbidden("spec.exempt", "must be nil if the type is Limited")
        if limited is None:
            yield field.required("spec.limited", "must not be empty when type is Limited")
        else:
            yield from _limited(limited, "spec.limited")
    yield from _mandatory(level, defaults.LEVELS)


def _lending(given: Mapping[str, Any], path: str) -> Iterator[Cause]:
    shares, lendable = given.get("nominalConcurrencyShares", 0), given.get("lendablePercent") or 0
    if shares < 0:
        yield field.invalid(f"{path}.nominalConcurrencyShares", shares, "must be a non-negative integer")
    if not 0 <= lendable <= 100:
        yield field.invalid(f"{path}.lendablePercent", lendable, "must be between 0 and 100, inclusive")


def _limited(limited: Mapping[str, Any], path: str) -> Iterator[Cause]:
    yield from _lending(limited, path)
    borrowing = limited.get("borrowingLimitPercent")
    if borrowing is not None and borrowing < 0:
        detail = "if specified, must be a non-negative integer"
        yield field.invalid(f"{path}.borrowingLimitPercent", borrowing, detail)
    response = limited.get("limitResponse") or {}
    path = f"{path}.limitResponse"
    queuing = response.get("queuing")
    yield from common.one_of(f"{path}.type", response.get("type"), ("Queue", "Reject"))
    if response.get("type") == "Queue" and queuing is None:
        yield field.required(f"{path}.queuing", "must not be empty if limit response type is Queue")
    elif response.get("type") == "Reject" and queuing is not None:
        yield field.forbidden(f"{path}.queuing", "must be nil if limit response type is not Queue")
    elif queuing is not None:
        yield from _queuing(queuing, f"{path}.queuing")


def _queuing(queuing: Mapping[str, Any], path: str) -> Iterator[Cause]:
    queues, hand = queuing.get("queues", 0), queuing.get("handSize", 0)
    for name in ("queues", "handSize", "queueLengthLimit"):
        if queuing.get(name, 0) <= 0:
            yield field.invalid(f"{path}.{name}", queuing.get(name, 0), "must be positive")
            return
    if queues > MAX_QUEUES:
        yield field.invalid(f"{path}.queues", queues, f"must not be greater than {MAX_QUEUES}")
    elif hand > queues:
        detail = f"should not be greater than queues ({queues})"
        yield field.invalid(f"{path}.handSize", hand, detail)
    elif hand * log2(queues) > MAX_HAND_BITS:
        detail = f"required entropy bits of deckSize {queues} and handSize {hand} should not be greater than"
        yield field.invalid(f"{path}.handSize", hand, f"{detail} {MAX_HAND_BITS}")


def _mandatory(obj: Object, known: Any) -> Iterator[Cause]:
    """Specs of mandatory objects are fixed, but for shares and lending of `exempt`."""
    name = obj["metadata"].get("name")
    if name not in defaults.MANDATORY:
        return
    wanted = next(item for item in known if item["metadata"]["name"] == name)["spec"]
    given = spec_of(obj)
    if wanted.get("type") == "Exempt":
        given, wanted = {"type": given.get("type")}, {"type": "Exempt"}
    if given != wanted:
        yield field.invalid("spec", spec_of(obj), f"spec of '{name}' must equal the fixed value")


def _limited_number(*path: str) -> Any:
    def cell(level: Object) -> str:
        value = dig(level, "spec", "limited", *path)
        if value is None and path == ("nominalConcurrencyShares",):
            value = dig(level, "spec", "exempt", *path)
        return NONE if value is None else str(value)

    return cell


_QUEUING = ("limitResponse", "queuing")


def _kind(name: str, resource: str, columns: tuple[Any, ...], **steps: Any) -> Kind:
    return Kind(
        group=GROUP,
        version="v1",
        kind=name,
        resource=resource,
        namespaced=False,
        storage_prefix=resource,
        singular=name.lower(),
        subresources=("status",),
        columns=columns,
        strategy=Strategy(
            prepare_create=common.drop_status,
            prepare_update=common.keep_status,
            status_prepare_update=common.keep_spec,
            **steps,
        ),
    )


KINDS = (
    _kind(
        "FlowSchema",
        "flowschemas",
        (
            common.NAME,
            column("PriorityLevel", common.text("spec", "priorityLevelConfiguration", "name")),
            column("MatchingPrecedence", common.number("spec", "matchingPrecedence"), "integer"),
            column("DistinguisherMethod", common.text("spec", "distinguisherMethod", "type", absent=NONE)),
            common.AGE,
            column("MissingPL", _missing_level),
        ),
        default=_default_schema,
        validate=_validate_schema,
        validate_update=common.revalidate(_validate_schema),
    ),
    _kind(
        "PriorityLevelConfiguration",
        "prioritylevelconfigurations",
        (
            common.NAME,
            column("Type", common.text("spec", "type")),
            column("NominalConcurrencyShares", _limited_number("nominalConcurrencyShares")),
            column("Queues", _limited_number(*_QUEUING, "queues")),
            column("HandSize", _limited_number(*_QUEUING, "handSize")),
            column("QueueLengthLimit", _limited_number(*_QUEUING, "queueLengthLimit")),
            common.AGE,
        ),
        default=_default_level,
        validate=_validate_level,
        validate_update=common.revalidate(_validate_level),
    ),
)
