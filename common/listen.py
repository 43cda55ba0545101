"""Listening sockets: dual-stack where the machine can, port 0, and unix sockets that belong to nobody else."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress

from common.errors import StartError
from common.setting_values import ListenAddress

BACKLOG = 1024  # connections that wait for accept; Linux cuts at net.core.somaxconn (4096)
PROBE_TIMEOUT_S = 1.0  # for asking whether somebody answers on a unix socket
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


def bind(
    address: ListenAddress,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    *,
    shared: bool = False,
    accept: bool = True,
) -> list[socket.socket]:
    """Bind an address; TCP sockets listen already. ``::`` also takes IPv4, and is 0.0.0.0 on machines without IPv6.

    ``shared`` (SO_REUSEPORT): other processes of ours may bind it too, and the system spreads clients over those that
    listen. ``accept`` False: keep the address without listening. A host name gives a socket for each of its addresses.
    Raises ``StartError`` naming the address.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=kind, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"cannot listen on {address}: {error.strerror or error}") from None
    bound: list[socket.socket] = []
    trouble: OSError | None = None
    for family, _, protocol, _, where in dict.fromkeys(found):
        try:
            bound.append(_bind(family, kind, protocol, where, shared, accept))
        except OSError as error:
            trouble = error
            if address.host == "::" and error.errno in NO_SUCH_FAMILY:
                return bind(ListenAddress("0.0.0.0", address.port), kind, shared=shared, accept=accept)
            if error.errno not in NO_SUCH_FAMILY:
                break
    if trouble is not None and (not bound or trouble.errno not in NO_SUCH_FAMILY):
        for opened in bound:
            opened.close()
        raise StartError(f"cannot listen on {address}: {trouble.strerror or trouble}")
    return bound


def _bind(
    family: int, kind: socket.SocketKind, protocol: int, where: tuple[object, ...], shared: bool, accept: bool
) -> socket.socket:
    opened = socket.socket(family, kind, protocol)
    try:
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if where[0] == "::" else 1)
        if shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind(where)
        if kind == socket.SOCK_STREAM and accept:
            opened.listen(BACKLOG)
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened


def name_of(opened: socket.socket) -> tuple[str, int]:
    """Host and port really bound."""
    host, port = opened.getsockname()[:2]
    return str(host), int(port)


def bind_unix(path: str) -> socket.socket:
    """Listen on a unix socket, removing one that is left over. Raises ``StartError`` if another process answers on it,
    if something else than a socket is there, or if it cannot be made.
    """
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            if _answers(path):
                raise StartError(f"another process answers on {path}")
            os.unlink(path)
        else:
            raise StartError(f"{path} is not a socket")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StartError(f"cannot listen on {path}: {error.strerror or error}") from None
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.bind(path)
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError as error:
        opened.close()
        raise StartError(f"cannot listen on {path}: {error.strerror or error}") from None
    return opened


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # busy or not ours to ask: leave it alone
    return True


def remove_unix(path: str, inode: int) -> None:
    """Remove our own unix socket at the end, unless another one has taken its place."""
    with suppress(OSError):
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
