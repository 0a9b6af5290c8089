"""Request info: what a path and method mean. Pure; the same rules as Kubernetes' RequestInfo resolver."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from apimachinery import errors

Query = dict[str, list[str]]

METHOD_VERBS = {
    "POST": "create",
    "GET": "get",
    "HEAD": "get",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
NAMESPACE_SUBRESOURCES = ("status", "finalize")


@dataclass(slots=True)
class RequestInfo:
    """A request as authorization and routing see it. Non-resource requests have only `path` and a lower-
    case verb. Nobody changes one; it is not frozen because that takes four times as long to make.
    """

    path: str
    verb: str
    query: Query = field(default_factory=dict)
    is_resource: bool = False
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    name: str = ""
    subresource: str = ""
    tail: str = ""  # what follows the subresource (nodes/x/proxy/<tail>)

    def first(self, parameter: str) -> str:
        values = self.query.get(parameter)
        return values[0] if values else ""

    def flag(self, parameter: str) -> bool:
        """A boolean query parameter, as Kubernetes reads it: present and neither "false" nor "0"."""
        values = self.query.get(parameter)
        return values is not None and values[0] not in ("false", "0")


def parse_query(raw: bytes) -> Query:
    """Decode a query string; a parameter without a value counts as present and empty."""
    query: Query = {}
    for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
        query.setdefault(name, []).append(value)
    return query


def split_path(raw_path: str) -> list[str]:
    """Segments of an undecoded path, each decoded on its own. Raises 400 for a segment that plays path
    tricks.
    """
    bare = raw_path.strip("/")
    parts = bare.split("/") if bare else []
    if "%" in bare:
        parts = [unquote(part) for part in parts]
    for part in parts:
        if part in (".", "..") or "/" in part or "\0" in part:
            raise errors.bad_request(
                f"invalid path segment \"{part}\": it may not be '.', '..' or contain '/'"
            )
    return parts


def parse(method: str, raw_path: str, raw_query: bytes) -> RequestInfo:
    """Resolve a request line. Raises a 400 StatusError for malformed paths."""
    query = parse_query(raw_query) if raw_query else {}
    bare = raw_path.split("?", 1)[0]
    head = bare.split("/", 2)[1] if bare.startswith("/") else ""
    if head not in ("api", "apis"):
        return RequestInfo(unquote(bare), method.lower(), query)
    if "/proxy/" in bare:
        front, _, tail = bare.partition("/proxy/")
        parts = [*split_path(front), "proxy"]
    else:
        parts, tail = split_path(bare), ""
    skip = 2 if head == "api" else 3
    if len(parts) <= skip:
        return RequestInfo(unquote(bare), method.lower(), query)
    group, version, parts = "" if head == "api" else parts[1], parts[skip - 1], parts[skip:]
    if parts[0] == "watch" and len(parts) > 1 and method == "GET":
        return _old_watch(_resource(method, unquote(bare), query, group, version, parts[1:], tail))
    return _resource(method, unquote(bare), query, group, version, parts, tail)


def _resource(
    method: str, path: str, query: Query, group: str, version: str, parts: list[str], tail: str
) -> RequestInfo:
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 1:
        namespace = parts[1]
        if len(parts) > 2 and parts[2] not in NAMESPACE_SUBRESOURCES:
            parts = parts[2:]
    name = parts[1] if len(parts) > 1 else ""
    subresource = parts[2] if len(parts) > 2 else ""
    if len(parts) > 3 and not tail:
        tail = "/".join(parts[3:])
    verb = METHOD_VERBS.get(method, method.lower())
    if not name:
        verb = {"get": "list", "delete": "deletecollection"}.get(verb, verb)
        if verb == "list" and _truthy(query.get("watch")):
            verb = "watch"
        if verb in ("list", "watch", "deletecollection"):
            name = _name_of_selector(query)
    return RequestInfo(path, verb, query, True, group, version, namespace, parts[0], name, subresource, tail)


def _old_watch(info: RequestInfo) -> RequestInfo:
    """`/api/v1/watch/...`, as clients from before `?watch=true` ask: a name is a field selector of the list.
    Raises 400 when another selector contradicts it.
    """
    info.verb = "watch"
    given = info.first("fieldSelector")
    if info.name and not given:
        info.query["fieldSelector"] = [f"metadata.name={info.name}"]
    elif info.name and not {f"metadata.name{equal}{info.name}" for equal in ("=", "==")} & {
        *given.split(",")
    }:
        raise errors.bad_request("fieldSelector metadata.name doesn't match requested name")
    return info


def _truthy(values: list[str] | None) -> bool:
    return values is not None and values[0] not in ("false", "0")


def _name_of_selector(query: Query) -> str:
    """`metadata.name=x` as the only field selector narrows authorization to that name."""
    selector = (query.get("fieldSelector") or [""])[0]
    field_name, _, value = selector.partition("=")
    if field_name == "metadata.name" and value and "," not in value:
        return value.lstrip("=")
    return ""
