"""The metrics and health server, asked over real sockets; and the ``healthcheck`` command against it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from common import listen, metrics
from common.health import SOCKET_NAME, HealthServer
from common.settings import ListenAddress
from outposts import healthcheck

PREFIX = "/outpost.goauthentik.io"
ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def serving(
    folder: Path, reasons: list[str], addresses: tuple[ListenAddress, ...] = (ListenAddress("127.0.0.1", 0),)
) -> AsyncIterator[list[tuple[str, int]]]:
    """A server whose readiness is a list that the test may change."""
    server = HealthServer(addresses, str(folder), lambda: list(reasons))
    try:
        yield await server.start()
    finally:
        await server.close()
        await server.close()


async def ask(address: tuple[str, int], path: str, method: str = "GET") -> tuple[int, bytes, str]:
    """Status, body and content type."""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{host}:{address[1]}{path}") as answer,
    ):
        return answer.status, await answer.read(), answer.headers.get("Content-Type", "")


async def run_healthcheck(folder: Path) -> int:
    """The command as a container runs it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "outposts.healthcheck", cwd=ROOT, env={"TMPDIR": str(folder), "PATH": ""},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return await process.wait()


async def test_c30_ping(tmp_path: Path) -> None:
    """204 and nothing else, with any method, ready or not."""
    async with serving(tmp_path, ["not yet"]) as (address,):
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            assert (await ask(address, f"{PREFIX}/ping", method))[:2] == (204, b"")


async def test_c07_every_address_is_bound(tmp_path: Path) -> None:
    """Both families."""
    addresses = (ListenAddress("127.0.0.1", 0), ListenAddress("::1", 0))
    async with serving(tmp_path, [], addresses) as bound:
        assert [host for host, _ in bound] == ["127.0.0.1", "::1"]
        for address in bound:
            assert (await ask(address, f"{PREFIX}/ping"))[0] == 204


async def test_readiness_says_why(tmp_path: Path) -> None:
    """200 when there is no reason against it, else 503 with the reasons; both names; it is asked each time."""
    reasons: list[str] = []
    async with serving(tmp_path, reasons) as (address,):
        for path in ("/readyz", f"{PREFIX}/ready"):
            reasons[:] = ["no provider"]
            status, body, kind = await ask(address, path)
            assert (status, body) == (503, b'{"ready": false, "reasons": ["no provider"]}')
            assert kind.startswith("application/json")
            assert (await ask(address, path, "HEAD"))[:2] == (503, b"")
            reasons.clear()
            assert (await ask(address, path))[0] == 200
        for path in ("/livez", f"{PREFIX}/live"):
            assert (await ask(address, path))[0] == 200


async def test_c31_metrics(tmp_path: Path) -> None:
    """Prometheus text with the established info line."""
    metrics.info.labels("out", "ldap", "u-1", "0.1.0", "b").set(1)
    async with serving(tmp_path, []) as (address,):
        status, body, kind = await ask(address, "/metrics")
    assert status == 200
    assert kind.startswith("text/plain; version=0.0.4")
    assert (
        b'authentik_outpost_info{build="b",outpost_name="out",outpost_type="ldap",uuid="u-1",version="0.1.0"} 1.0'
        in body
    )


async def test_everything_else_is_404(tmp_path: Path) -> None:
    """And other methods than reading are refused."""
    async with serving(tmp_path, []) as (address,):
        for path in ("/", "/metrics/", "/ping", f"{PREFIX}/", "/readyz/x"):
            assert (await ask(address, path))[0] == 404
        assert (await ask(address, "/metrics", "POST"))[0] == 405


async def test_a_metrics_port_that_is_taken_is_a_warning(tmp_path: Path) -> None:
    """The other addresses and the unix socket serve."""
    with listen.bind(ListenAddress("127.0.0.1", 0))[0] as taken:
        addresses = (ListenAddress(*listen.name_of(taken)), ListenAddress("127.0.0.1", 0))
        async with serving(tmp_path, [], addresses) as bound:
            assert len(bound) == 1
            assert (await ask(bound[0], f"{PREFIX}/ping"))[0] == 204
            assert await run_healthcheck(tmp_path) == 0


async def test_c29_healthcheck_with_and_without_daemon(tmp_path: Path) -> None:
    """0 while it runs, 1 before and after; the socket is gone afterwards."""
    assert await run_healthcheck(tmp_path) == 1
    async with serving(tmp_path, ["not ready is still alive"]):
        assert await run_healthcheck(tmp_path) == 0
    assert not (tmp_path / SOCKET_NAME).exists()
    assert await run_healthcheck(tmp_path) == 1


async def test_socket_of_another_daemon_is_left_alone(tmp_path: Path) -> None:
    """The second daemon serves without it, and does not remove it when it ends."""
    async with serving(tmp_path, []):
        async with serving(tmp_path, []) as (address,):
            assert (await ask(address, f"{PREFIX}/ping"))[0] == 204
        assert await run_healthcheck(tmp_path) == 0


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 0),
        (b"HTTP/1.0 399 X\r\n\r\n", 0),
        (b"HTTP/1.1 400 Bad\r\n\r\n", 1),
        (b"HTTP/1.1 503 X\r\n\r\n", 1),
        (b"HTTP/1.1 xyz\r\n\r\n", 1),
        (b"SSH-2.0\r\n", 1),
        (b"", 1),
        (b"x" * 5000, 1),
    ],
)
async def test_healthcheck_reads_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, code: int
) -> None:
    """Below 400 is health; what is not HTTP is not."""
    asked: list[bytes] = []

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with await asyncio.start_unix_server(respond, tmp_path / healthcheck.SOCKET_NAME):
        assert await asyncio.to_thread(healthcheck.main, []) == code
    assert asked[0].startswith(b"HEAD /outpost.goauthentik.io/ping HTTP/1.1\r\n")
    assert b"User-Agent: goauthentik.io/healthcheck\r\n" in asked[0]


def test_healthcheck_imports_almost_nothing() -> None:
    """It runs every five seconds: the standard library's socket is the most it may load."""
    code = "import sys; from outposts import healthcheck; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"asyncio", "ssl", "aiohttp", "httpx", "structlog", "prometheus_client"} & set(loaded.split())
    assert healthcheck.SOCKET_NAME == SOCKET_NAME
    assert healthcheck.main(["x"]) == 1


async def test_a_service_of_several_processes_answers_for_all(tmp_path: Path) -> None:
    """Its own metrics text, and what it has to say beside the reasons."""

    async def whole() -> bytes:
        return b"the_sum 3\n"

    server = HealthServer(
        (ListenAddress("127.0.0.1", 0),),
        str(tmp_path),
        list,
        metrics_text=whole,
        details=lambda: {"workers": {"wanted": 2}},
    )
    (address,) = await server.start()
    try:
        status, body, kind = await ask(address, "/metrics")
        assert (status, body, kind) == (200, b"the_sum 3\n", metrics.CONTENT_TYPE)
        _, body, _ = await ask(address, "/readyz")
        assert json.loads(body) == {"ready": True, "reasons": [], "workers": {"wanted": 2}}
    finally:
        await server.close()
