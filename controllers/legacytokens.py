"""Tokens without end that nobody uses any more (KEP-2799): marked invalid first, and deleted when nobody has
missed them for as long again.

Only Secrets that the service account itself names in `secrets` are looked at: those that old clusters made
for every account. The API server writes the day of the last use on each, accepts none that is marked, and
says in a ConfigMap since when it has kept count.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers.accounttokens import ACCOUNT, ACCOUNT_UID, is_token
from controllers.objects import Object
from controllers.runtime import Context, Periodic, ignore_not_found, in_namespace
from kubeclient.resources import CONFIGMAPS, PODS, SECRETS, SERVICEACCOUNTS
from kubeclient.rest import MERGE, ConnectionFailed

LAST_USED = "kubernetes.io/legacy-token-last-used"
INVALID_SINCE = "kubernetes.io/legacy-token-invalid-since"
TRACKING = "kube-apiserver-legacy-service-account-token-tracking"
PERIOD = 24 * 3600.0  # seconds between two looks
RETRY = 600.0  # the same after a look that did not come to its end

_REFERENCES = frozenset({"secret", "secretRef", "secretKeyRef", "nodePublishSecretRef"})


class Verdict(Enum):
    KEEP = "keep"
    INVALIDATE = "invalidate"
    DELETE = "delete"


def day_of(text: object) -> dt.date | None:
    """A day as the labels have it (2006-01-02); None for anything else."""
    try:
        return dt.datetime.strptime(str(text), "%Y-%m-%d").replace(tzinfo=dt.UTC).date()
    except ValueError:
        return None


def day_at(seconds: float) -> dt.date:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).date()


def counts_since(tracking: Object | None) -> float | None:
    """When the count was complete for the first time (the day after it began); None when nobody says."""
    day = day_of(((tracking or {}).get("data") or {}).get("since"))
    if day is None:
        return None
    return dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), dt.UTC).timestamp()


def judge(secret: Object, account: Object | None, in_use: bool, now: float, period: float) -> Verdict:
    """`account` is the one the Secret is a token of, `in_use` that a pod names the Secret."""
    if o.is_terminating(secret) or o.created_at(secret) >= now - period:
        return Verdict.KEEP
    oldest, used = day_at(now - period), o.labels(secret).get(LAST_USED)
    if used is not None and ((day := day_of(used)) is None or day >= oldest):
        return Verdict.KEEP
    if account is None or in_use or not _made_for(account, secret):
        return Verdict.KEEP
    since = day_of(o.labels(secret).get(INVALID_SINCE))
    if since is None:
        return Verdict.INVALIDATE
    return Verdict.KEEP if since >= oldest else Verdict.DELETE


def _made_for(account: Object, secret: Object) -> bool:
    uid = o.annotations_of(secret).get(ACCOUNT_UID)
    named = any(each.get("name") == o.name(secret) for each in account.get("secrets") or ())
    return named and uid in (None, "", o.uid(account))


def secrets_of(pod: Object) -> set[str]:
    """Every Secret the pod's spec names, in whatever field: environment, volumes, credentials for images."""
    spec = o.spec(pod)
    return {str(each.get("name")) for each in spec.get("imagePullSecrets") or ()} | set(_named(spec))


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for field, part in value.items():
            if field == "secretName":
                yield str(part)
            elif field in _REFERENCES and isinstance(part, Mapping) and "name" in part:
                yield str(part["name"])
            yield from _named(part)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from _named(part)


class LegacyTokenCleaner(Periodic):
    name: ClassVar[str] = "legacy-serviceaccount-token-cleaner-controller"
    account: ClassVar[str] = "legacy-service-account-token-cleaner"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, period=PERIOD)
        self.unused = ctx.options.legacy_service_account_token_clean_up_period
        self.secrets = ctx.informers.informer(SECRETS)
        self.accounts = ctx.informers.informer(SERVICEACCOUNTS)
        self.pods = ctx.informers.informer(PODS)
        self._whole = False

    async def step(self) -> None:
        self._whole = False
        tracking = await ignore_not_found(self.client.get(CONFIGMAPS, TRACKING, "kube-system"))
        since, now = counts_since(tracking), self.clock.now()
        if since is None:
            self.log.warning("no ConfigMap says since when tokens are counted", extra={"name": TRACKING})
            return
        counted_enough = now >= since + self.unused
        tokens = [each for each in self.secrets.store.list() if is_token(each)] if counted_enough else []
        self._whole = all([await self._settle(each, now) for each in tokens])

    async def pause(self) -> None:
        await self.clock.sleep(self.period if self._whole else RETRY)

    async def _settle(self, secret: Object, now: float) -> bool:
        """Whether it was done: one that cannot be written does not keep the others."""
        account = self.accounts.store.get(f"{o.namespace(secret)}/{o.annotations_of(secret).get(ACCOUNT)}")
        verdict = judge(secret, account, self._in_use(secret), now, self.unused)
        try:
            if verdict is Verdict.INVALIDATE:
                await self._invalidate(secret, day_at(now))
            elif verdict is Verdict.DELETE:
                await self._delete(secret)
        except (errors.StatusError, ConnectionFailed, TimeoutError) as error:
            self.log.warning("trying again: %s", error, extra={"secret": o.key(secret)})
            return False
        return True

    def _in_use(self, secret: Object) -> bool:
        return any(o.name(secret) in secrets_of(pod) for pod in in_namespace(self.pods, o.namespace(secret)))

    async def _invalidate(self, secret: Object, day: dt.date) -> None:
        self.log.info("token marked invalid: it is not used", extra={"secret": o.key(secret)})
        metadata = {"uid": o.uid(secret), "labels": {INVALID_SINCE: day.isoformat()}}
        body, name, namespace = {"metadata": metadata}, o.name(secret), o.namespace(secret)
        await ignore_not_found(self.client.patch(SECRETS, name, body, namespace, content_type=MERGE))

    async def _delete(self, secret: Object) -> None:
        """Exactly this version: a token that was used since, or whose mark was taken off, stays."""
        self.log.info("token deleted: nobody missed it", extra={"secret": o.key(secret)})
        version = {"uid": o.uid(secret), "resourceVersion": o.meta(secret)["resourceVersion"]}
        options = {"preconditions": version}
        await ignore_not_found(
            self.client.delete(SECRETS, o.name(secret), o.namespace(secret), options=options)
        )
