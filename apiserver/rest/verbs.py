"""What each verb on a resource does with a request: read it, call the registry, put the result into the
asked-for form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from apimachinery import errors, table
from apimachinery.errors import StatusError
from apimachinery.managedfields.manager import metadata_of
from apimachinery.managedfields.owners import name_from_agent
from apimachinery.schema.decode import decode
from apimachinery.scheme import Kind
from apiserver.extensions.decoding import prune_unknown
from apiserver.extensions.serving import CustomKind
from apiserver.registry import metadata, patching
from apiserver.registry.call import Call, Writer
from apiserver.registry.registry import Registry
from apiserver.rest import negotiate, options, protobuf, render
from apiserver.rest.message import JSON, Answer, Request, Stream
from apiserver.rest.watch import Watcher, Watches

Object = dict[str, Any]

# Kinds whose DELETE answers with the object even when it is gone (generic registry's ReturnDeletedObject).
RETURNS_DELETED = frozenset(
    {"pods", "services", "serviceaccounts", "resourcequotas", "persistentvolumeclaims", "persistentvolumes"}
)


class Verbs:
    """The generic verbs over one registry."""

    def __init__(self, registry: Registry, watches: Watches) -> None:
        self.registry = registry
        self.watches = watches

    async def get(self, request: Request, kind: Kind) -> Answer:
        info = request.info
        form, include = self._form(request, kind)
        entry = await self.registry.reader.get(kind, info.namespace, info.name, info.first("resourceVersion"))
        return render.bytes_response(kind, entry.data, form, include)

    async def list(self, request: Request, kind: Kind) -> Answer:
        form, include = self._form(request, kind)
        listing = await self.registry.reader.list(
            kind, request.info.namespace, options.list_options(request.info)
        )
        return render.listing_response(kind, listing, form, include)

    async def watch(self, request: Request, kind: Kind) -> Answer:
        form, include = self._form(request, kind)
        watcher = Watcher(
            kind,
            request.info.namespace,
            options.list_options(request.info),
            render.event_renderer(kind, form, include),
            reader=self.registry.reader,
            cacher=self.registry.cacher,
            watches=self.watches,
        )
        return Stream(await watcher.start(), protobuf.WATCH_MEDIA_TYPE if form.protobuf else JSON)

    async def create(self, request: Request, kind: Kind) -> Answer:
        form, include = self._form(request, kind)
        call = self.call(request, kind, "create")
        obj = await self.read(request, kind, call)
        created = await self.registry.create(call, obj)
        return render.object_response(kind, created, form, include, 201)

    async def update(self, request: Request, kind: Kind) -> Answer:
        form, include = self._form(request, kind)
        call = self.call(request, kind, "update")
        obj = await self.read(request, kind, call)

        async def replace(_: Object) -> Object:
            return patching.clone(obj)

        updated, created = await self.registry.update(call, replace)
        return render.object_response(kind, updated, form, include, 201 if created else 200)

    async def patch(self, request: Request, kind: Kind) -> Answer:
        if patching.is_apply(request.headers.get("content-type", "")):
            return await self.apply(request, kind)
        form, include = self._form(request, kind)
        call = self.call(request, kind, "patch")
        patch = patching.parse(await request.body(), request.headers.get("content-type", ""), kind)

        async def patched(stored: Object) -> Object:
            if not stored:  # a kind that an update may create; what a patch would change is not there
                raise errors.not_found(kind.group, kind.resource, call.name)
            return self.patched(patch, stored, kind, call)

        updated, _ = await self.registry.update(call, patched)
        request.warnings += call.warnings
        return render.object_response(kind, updated, form, include)

    async def apply(self, request: Request, kind: Kind) -> Answer:
        """Server-side apply (KEP-555): a PATCH that creates what is not there."""
        form, include = self._form(request, kind)
        call = self.call(request, kind, "patch", applies=True)
        writer, call.writer = call.writer, None
        assert writer is not None
        config = patching.parse_apply(await request.body(), call.options.field_validation, call.warnings)
        patching.check_applied_type(config, kind.api_version, kind.kind)
        registry = self.registry

        async def applied(live: Object) -> Object:
            if not live:
                request.authorize(replace(request.info, verb="create"))
                _check_uid(kind, config, call.name)
            now, force = registry.settings.now(), call.options.force
            new = registry.ownership.apply(kind, writer, live, config, now, force=force)
            obj = self.decode(new, kind, call, ())
            metadata.check_name(obj, call.name)
            return obj

        obj, created = await registry.update(call, applied, create_missing=True)
        return render.object_response(kind, obj, form, include, 201 if created else 200)

    async def delete(self, request: Request, kind: Kind) -> Answer:
        form, include = self._form(request, kind)
        call, chosen = self.call(request, kind, "delete"), await self._delete_options(request)
        call.dry_run, call.options = chosen.dry_run, chosen
        obj, gone = await self.registry.delete(call, chosen)
        if gone and kind.resource not in RETURNS_DELETED:
            return render.respond(deleted_status(kind, obj), form)
        return render.object_response(kind, obj, form, include)

    async def deletecollection(self, request: Request, kind: Kind) -> Answer:
        call, chosen = self.call(request, kind, "deletecollection"), await self._delete_options(request)
        which = options.list_options(request.info)
        objects = await self.registry.delete_collection(call, which, chosen)
        fields = {"resourceVersion": str(self.registry.cacher.revision)}
        return render.respond(
            {"kind": kind.list_kind, "apiVersion": kind.api_version, "metadata": fields, "items": objects},
            negotiate.Form(),
        )

    def call(self, request: Request, kind: Kind, verb: str, *, applies: bool = False) -> Call:
        info = request.info
        chosen = options.write_options(info, applies=applies)
        name = chosen.field_manager or name_from_agent(request.headers.get("user-agent", ""))
        return Call(
            verb,
            kind,
            info.namespace,
            info.name,
            request.user,
            info.subresource,
            chosen.dry_run,
            options=chosen,
            warnings=request.warnings,
            annotations=request.annotations,
            writer=Writer(name, info.subresource),
        )

    async def read(self, request: Request, kind: Kind, call: Call) -> Object:
        """The object in the body, through its schema."""
        strictness = call.options.field_validation
        obj, duplicates = negotiate.read_object(
            await request.body(),
            request.headers.get("content-type", ""),
            find_duplicates=strictness != "Ignore",
        )
        return self.decode(obj, kind, call, duplicates)

    def patched(self, patch: patching.Patch, stored: Object, kind: Kind, call: Call) -> Object:
        """What a patch makes of an object, through its schema. Raises 422 when it does not fit that."""
        made = patch(stored)
        check_type(made, kind)
        try:
            return self.decode(made, kind, call, ())
        except StatusError as error:
            raise patch.misfit(made, str(error.status["message"])) from error

    @staticmethod
    def decode(obj: Object, kind: Kind, call: Call, duplicates: tuple[str, ...]) -> Object:
        check_type(obj, kind)
        decoded, warnings = decode(kind, obj, strict=call.options.field_validation, duplicates=duplicates)
        call.warnings += [text for text in warnings if text not in call.warnings]
        if isinstance(kind, CustomKind):
            decoded = prune_unknown(decoded, kind, call.options.field_validation, call.warnings)
        rest = {name: value for name, value in decoded.items() if name not in ("kind", "apiVersion")}
        return {"kind": kind.kind, "apiVersion": kind.api_version, **rest}

    @staticmethod
    async def _delete_options(request: Request) -> options.DeleteOptions:
        body = await request.body()
        header = request.headers.get("content-type", "")
        return options.delete_options(
            request.info, negotiate.read_object(body, header)[0] if body.strip() else None
        )

    @staticmethod
    def _form(request: Request, kind: Kind) -> tuple[negotiate.Form, table.IncludeObject]:
        """Asked before anything is done, so that a 406 means that nothing was. Raises 406."""
        form = negotiate.accept(request.headers.get("accept", ""))
        if form.protobuf and not protobuf.definition_of(kind.api_version, kind.kind):
            raise negotiate.not_acceptable()
        return form, render.include_object(request.info.first("includeObject"))


def check_type(obj: Object, kind: Kind) -> None:
    """Kind and apiVersion in the body, when given, must be the ones of the URL. Raises 400."""
    version, name = obj.get("apiVersion") or kind.api_version, obj.get("kind") or kind.kind
    if version != kind.api_version:
        raise errors.bad_request(
            f"the API version in the data ({version}) does not match the expected API version "
            f"({kind.api_version})"
        )
    if name != kind.kind:
        raise errors.bad_request(
            f'{name} in version "{kind.version}" cannot be handled as a {kind.kind}: the kind in '
            "the data does not match the URL"
        )


def _check_uid(kind: Kind, config: Object, name: str) -> None:
    """What is meant for one certain object cannot create another. Raises 409."""
    uid = metadata_of(config).get("uid")
    if uid:
        why = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        raise errors.conflict(kind.group, kind.resource, name, why)


def deleted_status(kind: Kind, obj: Object) -> Object:
    details = {
        "name": obj["metadata"]["name"],
        "group": kind.group,
        "kind": kind.resource,
        "uid": obj["metadata"]["uid"],
    }
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {key: value for key, value in details.items() if value},
    }


def unknown_resource() -> StatusError:
    return errors.status(404, "NotFound", "the server could not find the requested resource", details={})
