"""The FastAPI application: health, version, metrics, discovery and OpenAPI documents, and the mounts of
/api and /apis.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi import Response as HttpResponse
from starlette.routing import Route

from apimachinery import errors
from apimachinery.errors import StatusError
from apiserver.rest import discovery, swagger
from apiserver.rest.message import JSON, STATE, Receive, Request, Scope, Send, encode, failure, wants_pretty
from apiserver.rest.openapi import OpenApi
from componentbase.health import Health

HEALTH_PATHS = ("/livez", "/readyz", "/healthz", "/metrics", "/version")


def build(
    health: Health,
    found: discovery.Discovery,
    openapi: OpenApi,
    jwks: Callable[[], tuple[Any, Any]] | None,
) -> FastAPI:
    """`jwks` gives the OpenID configuration and the key set of the service-account issuer."""
    app = FastAPI(title="apiserver", openapi_url=None, docs_url=None, redoc_url=None)
    _add_checks(app, health)
    _add_schemas(app, openapi)
    if jwks is not None:
        _add_issuer(app, jwks)
    paths = {*HEALTH_PATHS, "/api", "/api/v1", "/apis", "/openapi/v2", "/openapi/v3"}

    @app.get("/")
    async def index() -> HttpResponse:
        versions = [item for item in found.group_versions() if item[0]]
        groups = {f"/apis/{group}/{version}" for group, version in versions}
        groups |= {f"/apis/{group}" for group, _ in versions} | health.paths()
        return HttpResponse(encode({"paths": sorted(paths | groups)}, pretty=True), media_type=JSON)

    documents = Documents(found)
    for root in ("/api", "/apis"):
        app.router.routes.append(Route(root, documents))
        app.mount(root, documents)
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    app.add_api_route("/{path:path}", _unknown, methods=methods)
    return app


def _add_checks(app: FastAPI, health: Health) -> None:
    async def checks(request: HttpRequest) -> HttpResponse:
        status, body, media = await health.answer(request.url.path, request.url.query.encode())
        return HttpResponse(body, status, media_type=media, headers={"x-content-type-options": "nosniff"})

    async def version_slash(request: HttpRequest) -> HttpResponse:
        status, body, media = await health.answer("/version", b"")
        return HttpResponse(body, status, media_type=media)

    for path in HEALTH_PATHS:
        app.add_api_route(path, checks, methods=["GET", "HEAD"])
        if path == "/version":
            app.add_api_route("/version/", version_slash, methods=["GET", "HEAD"])
        elif path != "/metrics":
            app.add_api_route(path + "/{check:path}", checks, methods=["GET", "HEAD"])


def _add_schemas(app: FastAPI, openapi: OpenApi) -> None:
    @app.get("/openapi/v2")
    async def openapi_v2(request: HttpRequest) -> HttpResponse:
        for part in request.headers.get("accept", "*/*").split(","):
            media = part.partition(";")[0].strip()
            if media in (swagger.PROTOBUF, swagger.PROTOBUF_ANSWER):
                return _cached(request, *openapi.v2_protobuf(), swagger.PROTOBUF_ANSWER)
            if media in ("", "*/*", "application/*", JSON):
                return _cached(request, *openapi.v2())
        known = f"{JSON}, {swagger.PROTOBUF}"
        return _status(errors.not_acceptable(f"only the following media types are accepted: {known}"))

    @app.get("/openapi/v3")
    async def openapi_v3() -> HttpResponse:
        return HttpResponse(openapi.index(), media_type=JSON)

    @app.get("/openapi/v3/{path:path}")
    async def openapi_group(request: HttpRequest, path: str) -> HttpResponse:
        document = openapi.v3(path)
        return _cached(request, *document) if document else _status(_not_found())


def _add_issuer(app: FastAPI, jwks: Callable[[], tuple[Any, Any]]) -> None:
    @app.get("/.well-known/openid-configuration")
    async def openid_configuration() -> HttpResponse:
        return HttpResponse(orjson.dumps(jwks()[0]), media_type=JSON)

    @app.get("/openid/v1/jwks")
    async def key_set() -> HttpResponse:
        return HttpResponse(orjson.dumps(jwks()[1]), media_type="application/jwk-set+json")


class Documents:
    """What /api and /apis answer above the resources: raw ASGI, a few dictionary look-ups."""

    def __init__(self, found: discovery.Discovery) -> None:
        self._found = found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: Request = scope[STATE]
        accepted = request.headers.get("accept", "")
        pretty = wants_pretty(request.info, request.headers.get("user-agent", ""))
        parts = [part for part in scope["raw_path"].decode("latin-1").split("?")[0].split("/") if part]
        response = (
            self._answer(parts, accepted, pretty)
            if scope["method"] in ("GET", "HEAD")
            else _status(_not_found())
        )
        await response(scope, receive, send)

    def _answer(self, parts: list[str], accepted: str, pretty: bool) -> HttpResponse:
        if len(parts) == 1:
            version = aggregated_version(accepted)
            if version:
                body = encode(self._found.aggregated(version, core=parts[0] == "api"), pretty=pretty)
                media = f"{JSON};g={discovery.AGGREGATED_GROUP};v={version};as=APIGroupDiscoveryList"
                return HttpResponse(body, media_type=media, headers={"vary": "Accept"})
            found: dict[str, Any] | None = (
                self._found.api_versions() if parts[0] == "api" else self._found.group_list()
            )
        elif parts[0] == "api":
            found = self._found.resources("", parts[1]) if len(parts) == 2 else None
        else:
            found = (
                self._found.group(parts[1]) if len(parts) == 2 else self._found.resources(parts[1], parts[2])
            )
        if found is None:
            return _status(_not_found())
        return HttpResponse(encode(found, pretty=pretty), media_type=JSON, headers={"vary": "Accept"})


def aggregated_version(accepted: str) -> str:
    """The version of aggregated discovery a client asks for first ("" when it asks for none)."""
    for part in accepted.split(","):
        fields = dict(piece.strip().partition("=")[::2] for piece in part.split(";")[1:])
        if fields.get("g") == discovery.AGGREGATED_GROUP and fields.get("as") == "APIGroupDiscoveryList":
            if fields.get("v") in discovery.AGGREGATED_VERSIONS:
                return fields["v"]
        elif not fields:
            return ""
    return ""


def _not_found() -> StatusError:
    return errors.status(404, "NotFound", "the server could not find the requested resource", details={})


def _status(error: StatusError) -> HttpResponse:
    answer = failure(error)
    return HttpResponse(answer.body, answer.status, media_type=JSON)


def _cached(request: HttpRequest, body: bytes, etag: str, media: str = JSON) -> HttpResponse:
    headers = {
        "etag": f'"{etag}"',
        "cache-control": "public, immutable" if request.query_params.get("hash") == etag else "no-cache",
    }
    if request.headers.get("if-none-match", "").strip('"') == etag:
        return HttpResponse(status_code=304, headers=headers)
    return HttpResponse(body, media_type=media, headers=headers)


async def _unknown(request: HttpRequest) -> HttpResponse:
    return _status(_not_found())


Answerer = Callable[[Scope, Receive, Send], Awaitable[None]]
