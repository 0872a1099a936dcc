"""Requests to one API server, and how patient they are."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx2
import msgspec
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from k8sovs.kubernetes.errors import KubernetesError, refused, unavailable


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient the client is. All in seconds."""

    request_s: float = 10.0
    """one request that is no watch"""
    inactivity_s: float = 100.0
    """a watch on which nothing arrives; servers send a bookmark about once a minute"""
    keepalive_s: int = 5
    """between the kernel's questions on a silent connection whether the other host is there; see `_KEEPALIVE_PROBES`"""
    watch_s: float = 300.0
    """a watch is asked to end after this, plus up to half of it at random"""
    first_delay_s: float = 0.2
    """before the first retry; it doubles with each failure"""
    longest_delay_s: float = 10.0
    settled_s: float = 5.0
    """so long without a failure was a success: the next delay is the first one again"""


DEFAULT_TIMING: Final = Timing()

_KEEPALIVE_PROBES = 3
"""Questions without an answer that end a connection. After a silence a server repeats what was lost as late as the
silence was long (RFC 6298, section 5.5), and says nothing else before: a new connection is quicker."""


def server_of(kubeconfig: str | None) -> str:
    """The API server in a kubeconfig file, as a URL, or that of the pod one runs in. KubernetesError: none is known."""
    try:
        config = (KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_service_account()).get()
    except (ConfigError, OSError, KeyError, TypeError, ValueError) as error:
        source = kubeconfig or "the pod's service account"
        raise KubernetesError(f"cannot use the Kubernetes configuration of {source}: {error!r}") from error
    return "" if config is None else str(config.cluster.server)


class Transport:
    """An HTTP client with the server and the credentials of a kubeconfig file or of the pod's service account.

    Credentials in files are read again when the server refuses them. Proxies named in the environment are ignored: the
    network must not depend on them.
    """

    def __init__(self, kubeconfig: str | None, timing: Timing) -> None:
        """KubernetesError: the configuration cannot be used, and why."""
        self._timing = timing
        try:
            config = (KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_service_account()).get()
            if config is None:
                raise ConfigError("no context is selected")
            if config.user is None:
                config = config._replace(user=User())
            patience = httpx2.Timeout(timing.request_s)
            parameters = client_adapter.ConnectionParams(timeout=patience, trust_env=False).httpx_params(config)
            options = _keepalive(timing.keepalive_s)
            parameters["transport"] = httpx2.AsyncHTTPTransport(verify=parameters["verify"], socket_options=options)
            self._client = httpx2.AsyncClient(**parameters)
        except (ConfigError, OSError, KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
            source = kubeconfig or "the pod's service account"
            raise KubernetesError(f"cannot use the Kubernetes configuration of {source}: {error!r}") from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        content: bytes | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """The body of the answer. KubernetesError: refused; KubernetesUnavailable: no answer."""
        headers = {"Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = content_type
        try:
            answer = await self._client.request(
                method, path, params=dict(parameters or {}), content=content, headers=headers
            )
        except (httpx2.RequestError, ConfigError, OSError) as error:
            raise unavailable(f"{method} {path}", error) from error
        if not answer.is_success:
            raise refused(f"{method} {path}", answer.status_code, answer.headers, answer.content)
        return answer.content

    async def lines(self, path: str, parameters: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """The lines of a watch until the server ends it, and before them, when it stands, an empty one.

        KubernetesError: refused, cut, or silent for too long.
        """
        patience = httpx2.Timeout(self._timing.request_s, read=self._timing.inactivity_s)
        rest = b""
        try:
            async with self._client.stream("GET", path, params=dict(parameters), timeout=patience) as answer:
                if not answer.is_success:
                    raise refused(f"watch of {path}", answer.status_code, answer.headers, await answer.aread())
                yield b""
                async for chunk in answer.aiter_bytes():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield line
        except (httpx2.RequestError, ConfigError, OSError) as error:
            raise unavailable(f"the watch of {path}", error) from error


def _keepalive(interval_s: int) -> list[tuple[int, int, int]]:
    """Options for a socket whose kernel asks every `interval_s` seconds of silence (tcp(7))."""
    return [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval_s),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_s),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES),
        # While a request is not acknowledged the kernel repeats it and asks nothing.
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * interval_s * (1 + _KEEPALIVE_PROBES)),
    ]
