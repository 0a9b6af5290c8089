"""MutatingWebhookConfigurations and ValidatingWebhookConfigurations. They are asked by
admission/webhooks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from apimachinery import field
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.cel.expressions import CONDITION, match_conditions
from apiserver.kinds import common

OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
SCOPES = ("*", "Cluster", "Namespaced")
DEFAULT_TIMEOUT, MAX_TIMEOUT = 10, 30


def _defaults(*, mutating: bool) -> Callable[[Object], None]:
    def default(configuration: Object) -> None:
        for hook in configuration.get("webhooks") or ():
            hook.setdefault("failurePolicy", "Fail")
            hook.setdefault("matchPolicy", "Equivalent")
            hook.setdefault("namespaceSelector", {})
            hook.setdefault("objectSelector", {})
            hook.setdefault("timeoutSeconds", DEFAULT_TIMEOUT)
            if mutating:
                hook.setdefault("reinvocationPolicy", "Never")
            service = (hook.get("clientConfig") or {}).get("service")
            if service is not None:
                service.setdefault("port", 443)
            for rule in hook.get("rules") or ():
                rule.setdefault("scope", "*")

    return default


def _validate(configuration: Object) -> Iterator[Cause]:
    hooks = configuration.get("webhooks") or []
    yield from common.unique("webhooks", "name", hooks)
    for at, hook in enumerate(hooks):
        yield from _hook(hook, f"webhooks[{at}]")


def _hook(hook: Mapping[str, Any], path: str) -> Iterator[Cause]:
    name = hook.get("name", "")
    yield from common.subdomain(f"{path}.name", name) if name else iter([field.required(f"{path}.name")])
    if name and len(name.split(".")) < 3:
        yield field.invalid(
            f"{path}.name", name, "should be a domain with at least three segments separated by dots"
        )
    if "v1" not in (hook.get("admissionReviewVersions") or ()):
        shown = list(hook.get("admissionReviewVersions") or ())
        yield field.invalid(f"{path}.admissionReviewVersions", shown, "must include at least one of v1")
    yield from common.one_of(f"{path}.sideEffects", hook.get("sideEffects"), ("None", "NoneOnDryRun"))
    yield from common.one_of(f"{path}.failurePolicy", hook.get("failurePolicy"), ("Fail", "Ignore"))
    yield from common.one_of(f"{path}.matchPolicy", hook.get("matchPolicy"), ("Equivalent", "Exact"))
    if "reinvocationPolicy" in hook:
        yield from common.one_of(
            f"{path}.reinvocationPolicy", hook["reinvocationPolicy"], ("IfNeeded", "Never")
        )
    if not 1 <= hook.get("timeoutSeconds", DEFAULT_TIMEOUT) <= MAX_TIMEOUT:
        detail = f"the timeout value must be between 1 and {MAX_TIMEOUT} seconds"
        yield field.invalid(f"{path}.timeoutSeconds", hook["timeoutSeconds"], detail)
    yield from match_conditions(hook.get("matchConditions") or (), f"{path}.matchConditions", CONDITION)
    yield from client_config(hook.get("clientConfig") or {}, f"{path}.clientConfig")
    for at, rule in enumerate(hook.get("rules") or ()):
        yield from rule_causes(rule, f"{path}.rules[{at}]")


def client_config(config: Mapping[str, Any], path: str) -> Iterator[Cause]:
    """The rules of every `clientConfig`: a URL or a Service."""
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        yield field.required(f"{path}.url", "exactly one of url or service is required")
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme != "https":
            yield field.invalid(
                f"{path}.url", url, f"'https' is the only allowed URL scheme; got {parts.scheme!r}"
            )
        if not parts.hostname:
            yield field.invalid(f"{path}.url", url, "host must be specified")
        if parts.username or parts.query or parts.fragment:
            yield field.invalid(f"{path}.url", url, "user information, query and fragment are not permitted")
    if service is not None:
        for name in ("name", "namespace"):
            if not service.get(name):
                yield field.required(f"{path}.service.{name}")
        yield from common.port_number(f"{path}.service.port", service.get("port", 443))


def rule_causes(rule: Mapping[str, Any], path: str) -> Iterator[Cause]:
    """The rules of a rule: of webhooks and of policies."""
    for name in ("apiGroups", "apiVersions", "operations", "resources"):
        values = rule.get(name) or []
        if not values:
            yield field.required(f"{path}.{name}")
        if "*" in values and len(values) > 1 and name != "resources":
            yield field.invalid(f"{path}.{name}", values, "if '*' is present, must not specify other values")
    for at, operation in enumerate(rule.get("operations") or ()):
        yield from common.one_of(f"{path}.operations[{at}]", operation, OPERATIONS)
    yield from common.one_of(f"{path}.scope", rule.get("scope"), SCOPES)


def _count(configuration: Object) -> int:
    return len(configuration.get("webhooks") or ())


def _revalidate(new: Object, _old: Object) -> Iterable[Cause]:
    return _validate(new)


def _kind(name: str, resource: str, *, mutating: bool) -> Kind:
    return Kind(
        group="admissionregistration.k8s.io",
        version="v1",
        kind=name,
        resource=resource,
        namespaced=False,
        storage_prefix=resource,
        singular=name.lower(),
        categories=("api-extensions",),
        columns=(common.NAME, common.column("Webhooks", _count, "integer"), common.AGE),
        strategy=Strategy(
            default=_defaults(mutating=mutating), validate=_validate, validate_update=_revalidate
        ),
    )


MUTATING = _kind("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", mutating=True)
VALIDATING = _kind("ValidatingWebhookConfiguration", "validatingwebhookconfigurations", mutating=False)
KINDS = (MUTATING, VALIDATING)

__all__ = ["KINDS", "MUTATING", "VALIDATING"]
