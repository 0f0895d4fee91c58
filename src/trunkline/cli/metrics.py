"""What the daemons tell Prometheus (docs/operating.md)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from trunkline.errors import ConfigError

if TYPE_CHECKING:
    from trunkline.drivers.authority_server import Server
    from trunkline.drivers.server_aio import SwitchboardServer

MAX_REQUEST: Final = 8192
"""Most bytes of an HTTP request that are read."""

REQUEST_TIMEOUT: Final = 5.0
"""Seconds within which a request has to be there whole."""


def check_metrics() -> None:
    """Check that metrics can be served.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        import prometheus_client  # noqa: F401 - only whether it is there
    except ImportError:
        raise ConfigError("--metrics needs prometheus-client: pip install 'trunkline[metrics]'") from None


@contextlib.asynccontextmanager
async def serving_metrics(collect: Callable[[], Iterable[Any]], at: str | None) -> AsyncIterator[None]:
    """Serve what ``collect`` gives at an address while the block runs; nothing if there is none.

    Raises:
        ConfigError: it can't be listened on.
    """
    if at is None:
        yield
        return
    from trunkline.names import Address

    address = Address.parse(at, default_port=None)
    registry = _registry(collect)
    try:
        http = await asyncio.start_server(
            lambda reader, writer: _answer(registry, reader, writer), address.host, address.port, limit=MAX_REQUEST
        )
    except OSError as error:
        raise ConfigError(f"--metrics {address} can't be listened on: {error.strerror or error}") from error
    async with http:
        yield


async def _answer(registry: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    try:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith((b"GET /metrics ", b"GET /metrics?")):
                status, kind, body = "200 OK", CONTENT_TYPE_LATEST, generate_latest(registry)
            else:
                status, kind, body = "404 Not Found", "text/plain", b"The metrics are at /metrics\n"
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # it gave up, or never meant to ask
    finally:
        writer.close()


def _registry(collect: Callable[[], Iterable[Any]]) -> Any:
    from prometheus_client import CollectorRegistry

    class Collector:
        def collect(self) -> Iterable[Any]:
            return collect()

    registry = CollectorRegistry()
    registry.register(Collector())
    return registry


def switchboard_metrics(server: "SwitchboardServer") -> Iterator[Any]:
    """Yield what a switchboard server tells."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    now = server.status()
    for name, about, value in (
        ("uptime_seconds", "Seconds since the server started", now.uptime),
        ("clients", "Connected clients", now.clients),
        ("meets", "Meets of own clients that wait", now.meets),
        ("posts", "Posts of own clients", now.posts),
        ("foreign_entries", "Entries that other servers own", now.foreign),
        ("mates", "Connected servers", len(now.connected)),
        ("missing_mates", "Servers of the mesh that are not connected", len(now.missing)),
    ):
        yield GaugeMetricFamily(f"trunkline_switchboard_{name}", about, value)
    yield CounterMetricFamily("trunkline_switchboard_matches", "Matches that this server made", now.matches)


def authority_metrics(server: "Server") -> Iterator[Any]:
    """Yield what an authority or a replica tells."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    now = server.status()
    for name, about, value in (
        ("uptime_seconds", "Seconds since the server started", now.uptime),
        ("clients", "Connected clients", now.clients),
        ("statements", "Statements in the log", now.size),
    ):
        yield GaugeMetricFamily(f"trunkline_authority_{name}", about, value)
    for name, about, value in (
        ("requests", "Requests that were read", now.requests),
        ("saves", "Transactions that were written", now.saves),
        ("failures", "Times that the store failed", now.failures),
    ):
        yield CounterMetricFamily(f"trunkline_authority_{name}", about, value)
