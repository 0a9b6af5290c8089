"""docs/api.md: every kind and verb this server serves, and by name what Kubernetes serves and this does not.

python -m apiserver.apidoc            print it
python -m apiserver.apidoc --write    write docs/api.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from apimachinery.scheme import ALL_VERBS, Kind
from apiserver.admission import plugins
from apiserver.kinds import SCHEME
from apiserver.rest.discovery import SUBRESOURCE_KINDS
from apiserver.rest.reviews import EXTRAS
from componentbase.version import GIT_VERSION

PATH = Path(__file__).resolve().parents[1] / "docs" / "api.md"

# What kube-apiserver serves by default (stable groups), as `group/version resource`, and where it stands
# here.
# A test refuses an entry that is served by now.
NOT_SERVED: tuple[tuple[str, str, str], ...] = ()
NOT_SERVED_PARTS = (
    ("Services of two families", "addresses come from ranges of the family of `--service-cluster-ip-range`"),
    ("type checking of policies (`status.typeChecking`)", "expressions are dynamically typed"),
    (
        "admission plugins ClusterTrustBundleAttest, PodTopologyLabels, and those "
        "that are off by default (PodTolerationRestriction, EventRateLimit, ...)",
        "naming them is an error",
    ),
    (
        "protobuf as Table or PartialObjectMetadata, for reviews and for failures",
        "answered as JSON, or 406 to who takes nothing else",
    ),
    ("`ConversionReview` v1beta1", "v1 is spoken"),
    ("admission on CONNECT (webhooks and policies)", "not called"),
)


def document() -> str:
    """The whole page."""
    return "\n".join([*_head(), *_served(), *_reviews(), *_admission(), *_missing()]) + "\n"


def _head() -> Iterator[str]:
    yield "# The API"
    yield ""
    yield "Written by `python -m apiserver.apidoc --write` from the scheme; a test keeps it current."
    verbs = ", ".join(ALL_VERBS)
    yield f"API level: {GIT_VERSION}. Verbs are those of authorization; *all* stands for {verbs}."
    yield "Custom resources (`apiextensions.k8s.io/v1`) add groups while the server runs."
    yield ""
    yield "Bodies are JSON, YAML or, for every built-in kind, `application/vnd.kubernetes.protobuf`."
    yield "Who takes JSON besides protobuf, as Go clients do, is answered in JSON, in which objects are kept;"
    yield "objects, lists and watches go out in protobuf to who takes nothing else. As with kube-apiserver,"
    yield "custom resources have no protobuf (406, 415), and it skips fields newer than the API level."
    yield ""


def _served() -> Iterator[str]:
    yield "## Served"
    groups = SCHEME.groups()
    for group in sorted(groups):
        for version in groups[group]:
            yield ""
            yield f"### {group}/{version}" if group else f"### {version}"
            yield ""
            yield "| resource | kind | short | scope | verbs | subresources |"
            yield "| --- | --- | --- | --- | --- | --- |"
            members = [kind for kind in SCHEME if (kind.group, kind.version) == (group, version)]
            yield from (_row(kind) for kind in sorted(members, key=lambda kind: kind.resource))
    yield ""


def _row(kind: Kind) -> str:
    verbs = "all" if set(kind.verbs) == set(ALL_VERBS) else ", ".join(kind.verbs)
    below = [f"{name} ({', '.join(_verbs(name))})" for name in kind.subresources]
    cells = (
        kind.resource,
        kind.kind,
        ", ".join(kind.short_names),
        "namespace" if kind.namespaced else "cluster",
        verbs,
        "; ".join(below),
    )
    return "| " + " | ".join(cells) + " |"


def _verbs(subresource: str) -> tuple[str, ...]:
    return SUBRESOURCE_KINDS.get(subresource, ("", "", "", ("get",)))[3]


def _reviews() -> Iterator[str]:
    yield "## Asked, not stored"
    yield ""
    yield "| group version | resource | kind | verbs |"
    yield "| --- | --- | --- | --- |"
    for extra in EXTRAS:
        verbs = ", ".join(extra.verbs)
        yield f"| {extra.group}/{extra.version} | {extra.resource} | {extra.kind} | {verbs} |"
    yield ""


def _admission() -> Iterator[str]:
    yield "## Admission plugins, in their order"
    yield ""
    for plugin in plugins.ORDER:
        off = " (off unless enabled)" if plugin.__name__ in plugins.DEFAULT_OFF else ""
        yield f"- {plugin.__name__}{off}"
    yield ""


def _missing() -> Iterator[str]:
    yield "## Served by Kubernetes, not here"
    yield ""
    if NOT_SERVED:
        yield "| group version | resource | why |"
        yield "| --- | --- | --- |"
        for group_version, resource, why in NOT_SERVED:
            yield f"| {group_version} | {resource} | {why} |"
        yield ""
    yield "Parts of what is served:"
    yield ""
    for name, why in NOT_SERVED_PARTS:
        yield f"- {name}: {why}"


def main(arguments: list[str]) -> int:
    if arguments == ["--write"]:
        PATH.write_text(document(), encoding="utf-8")
    elif arguments:
        print("usage: python -m apiserver.apidoc [--write]", file=sys.stderr)
        return 2
    else:
        print(document(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
