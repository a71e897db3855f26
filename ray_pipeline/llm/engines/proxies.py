"""The HTTP proxy between this process and a server, and what its failures look like.

A proxy comes from the usual environment variables. A server on this machine is never asked through
one: a proxy would look for it on its own machine.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import urllib.request
from dataclasses import dataclass, replace

import aiohttp
from yarl import URL

from ray_pipeline.core.errors import UserError
from ray_pipeline.llm.engines.replies import Failure

#: Seconds that a proxy may take to accept a connection before a run starts.
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy, and the environment variable that names it."""

    url: URL
    variable: str

    def __str__(self) -> str:
        """For messages: without the password that the URL may hold."""
        return f"the proxy {self.url.with_user(None)} of the environment variable {self.variable}"

    def check(self, server: URL) -> None:
        """Check that something listens at the proxy's address.

        Raises:
            UserError: nothing does.
        """
        try:
            address = (self.url.host or "", self.url.port or 80)
            socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            raise UserError(
                f"{server.origin()} is to be asked through {self}, which cannot be reached: "
                f"{error}. {self.way_out(server)}"
            ) from None

    def way_out(self, server: URL) -> str:
        """How to do without the proxy."""
        return f"Correct {self.variable}, or set NO_PROXY={server.host} to do without the proxy"

    def refusal(self, error: BaseException, server: URL) -> Failure | None:
        """The failure that an exception means if it is the proxy's; None: it is not."""
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            why = error.strerror or type(error).__name__
            return Failure("retry", "unreachable", f"no connection to {self}: {why}")
        if not isinstance(error, aiohttp.ClientHttpProxyError):
            return None
        detail = f"{self} answers HTTP {error.status} ({error.message})"
        if error.status >= 500:
            return Failure("retry", "unreachable", detail)
        return Failure("run", "proxy", f"{detail}. {self.way_out(server)}")

    def named_in(self, failed: Failure, server: URL) -> Failure:
        """The failure of a reply that may be the proxy's own: proxy and server look the same."""
        if failed.code == "proxy":
            return replace(failed, advice=f": from {self}. {self.way_out(server)}")
        if failed.verdict == "row" and failed.unless is None:
            return failed
        return replace(failed, advice=f"{failed.advice} (through {self})")


def proxy_for(server: URL) -> Proxy | None:
    """The proxy that requests to a server go through; None: they go there directly.

    Raises:
        UserError: the environment names a proxy of a kind that cannot be used.
    """
    if is_loopback(server.host or ""):
        return None
    found = _configured(server)
    if found is None or urllib.request.proxy_bypass(server.host or ""):
        return None
    value, variable = found
    with contextlib.suppress(ValueError):
        url = URL(value if "://" in value else f"http://{value}")
        if url.scheme == "http" and url.host:
            return Proxy(url, variable)
    raise UserError(
        f"the environment variable {variable} holds {value.rpartition('@')[2]!r} for requests to "
        f"{server.origin()}: only proxies with a URL like http://host:port can be used. Correct "
        f"it, or set NO_PROXY={server.host} to do without the proxy"
    )


def bypassed(server: URL) -> str | None:
    """The variable of the proxy that a server on this machine is asked without; None: no such."""
    found = _configured(server)
    if found is None or not is_loopback(server.host or ""):
        return None
    return None if urllib.request.proxy_bypass(server.host or "") else found[1]


def _configured(server: URL) -> tuple[str, str] | None:
    """The proxy in the environment for a URL's scheme, and its variable; None: there is none."""
    for scheme in (server.scheme, "all"):
        if value := urllib.request.getproxies().get(scheme):
            names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
            return value, next((name for name in names if os.environ.get(name)), names[1])
    return None


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, whatever its network."""
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
