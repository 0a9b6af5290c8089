"""`--use-service-account-credentials`: every controller acts as its own service account in kube-system.

The manager's own identity asks for a token per account (TokenRequest) and again well before it expires. What
a controller may do is then exactly what the bootstrap role `system:controller:<account>` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path

from apimachinery import errors
from componentbase import tlsutil
from componentbase.backoff import Backoff
from componentbase.clock import Clock
from controllers import objects as o
from kubeclient.http1.message import Transport
from kubeclient.resources import SERVICEACCOUNTS
from kubeclient.rest import ConnectionFailed, RestClient
from kubeclient.transport import Target, open_transport
from pki import kubeconfig

NAMESPACE = "kube-system"
LIFETIME = 3600  # seconds asked for; the server may give less
RENEW_AT = 0.8  # of what was given

log = logging.getLogger(__name__)


class AccountToken:
    """The current token of one service account. Calling it gives the token, as a RestClient's target wants
    it.
    """

    def __init__(self, root: RestClient, account: str, clock: Clock) -> None:
        self._root, self.account, self._clock = root, account, clock
        self._token = ""
        self.renew_in = 0.0  # seconds after the last renewal

    def __call__(self) -> str:
        return self._token

    async def renew(self) -> None:
        """Ask for a new token, making the account first if need be. Raises StatusError, ConnectionFailed."""
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"name": self.account, "namespace": NAMESPACE},
            "spec": {"expirationSeconds": LIFETIME},
        }
        try:
            answer = await self._ask(request)
        except errors.StatusError as error:
            if not errors.is_not_found(error):
                raise
            await self._make_account()
            answer = await self._ask(request)
        self._token = answer["status"]["token"]
        given = o.parse_time(answer["status"]["expirationTimestamp"]) - self._clock.now()
        self.renew_in = max(given * RENEW_AT, 10.0)

    async def _ask(self, request: o.Object) -> o.Object:
        return await self._root.create(
            SERVICEACCOUNTS, request, NAMESPACE, name=self.account, subresource="token"
        )

    async def _make_account(self) -> None:
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": self.account}}
        try:
            await self._root.create(SERVICEACCOUNTS, body, NAMESPACE)
        except errors.StatusError as error:
            if not errors.is_already_exists(error):
                raise

    async def keep(self) -> None:
        """Renew for ever; a failure is tried again while the old token still holds."""
        backoff = Backoff(1.0, 30.0)
        while True:
            await self._clock.sleep(self.renew_in)
            try:
                await self.renew()
                backoff.reset()
            except (errors.StatusError, ConnectionFailed) as error:
                log.warning("token not renewed: %s", error, extra={"account": self.account})
                self.renew_in = backoff.next()


@contextlib.asynccontextmanager
async def open_clients(
    root: RestClient,
    config_file: str | Path,
    accounts: Collection[str],
    clock: Clock,
    transport: Callable[[Target], Transport] = open_transport,
) -> AsyncIterator[Mapping[str, RestClient]]:
    """A client per account, with a first token each and renewal while the context lasts.

    Waits for as long as the tokens cannot be had (a cluster that is only starting), saying so.
    """
    config = kubeconfig.load(config_file)
    context = None
    if config.server.startswith("https://"):
        context = tlsutil.client_context(config.ca_pem, insecure=config.insecure)
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, RestClient] = {}
        tokens = [AccountToken(root, account, clock) for account in sorted(accounts)]
        for token in tokens:
            await _first_token(token, clock)
            target = Target(config.server, context, token)
            agent = f"kube-controller-manager/{token.account}"
            client = RestClient(target, user_agent=agent, transport=transport(target))
            clients[token.account] = await stack.enter_async_context(client)
        async with asyncio.TaskGroup() as group:
            keepers = [group.create_task(token.keep(), name=f"token/{token.account}") for token in tokens]
            try:
                yield clients
            finally:
                for keeper in keepers:
                    keeper.cancel()


async def _first_token(token: AccountToken, clock: Clock) -> None:
    backoff = Backoff(0.5, 5.0)
    while True:
        try:
            await token.renew()
            return
        except (errors.StatusError, ConnectionFailed) as error:
            log.warning("waiting for a token: %s", error, extra={"account": token.account})
            await clock.sleep(backoff.next())
