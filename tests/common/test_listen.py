"""Listening sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from common import listen
from common.errors import StartError
from common.settings import ListenAddress


def ask(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


def test_port_zero_and_real_address() -> None:
    """A free port is chosen and told."""
    (opened,) = listen.bind(ListenAddress("127.0.0.1", 0))
    with opened:
        host, port = listen.name_of(opened)
        assert (host, port > 0) == ("127.0.0.1", True)
        assert ask(host, port)


def test_unspecified_address_takes_both_families() -> None:
    """``::`` answers IPv4 clients too."""
    (opened,) = listen.bind(ListenAddress("::", 0))
    with opened:
        assert ask("127.0.0.1", listen.name_of(opened)[1])


def test_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then ``::`` means all IPv4 addresses."""
    real = socket.socket

    def without(family: int = socket.AF_INET, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(socket, "socket", without)
    (opened,) = listen.bind(ListenAddress("::", 0))
    with opened:
        assert opened.family == socket.AF_INET
        assert listen.name_of(opened)[0] == "0.0.0.0"


def test_ipv6_address_leaves_ipv4_to_others() -> None:
    """``::1`` and ``127.0.0.1`` can have the same port."""
    (first,) = listen.bind(ListenAddress("127.0.0.1", 0))
    with first:
        (second,) = listen.bind(ListenAddress("::1", listen.name_of(first)[1]))
        second.close()


def test_datagrams() -> None:
    """UDP sockets are bound, not listening."""
    (opened,) = listen.bind(ListenAddress("127.0.0.1", 0), socket.SOCK_DGRAM)
    with opened, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", listen.name_of(opened))
        opened.settimeout(5)
        assert opened.recv(10) == b"x"


def test_taken_port_names_the_address() -> None:
    """The error is the operator's to read, exit code 1."""
    (opened,) = listen.bind(ListenAddress("127.0.0.1", 0))
    with opened:
        port = listen.name_of(opened)[1]
        with pytest.raises(StartError, match=f"127.0.0.1:{port}.*in use") as caught:
            listen.bind(ListenAddress("127.0.0.1", port))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_foreign_address(host: str) -> None:
    """An address that is not ours, and a name that is nobody's."""
    with pytest.raises(StartError, match="cannot listen on"):
        listen.bind(ListenAddress(host, 0))


def test_unix_socket_left_over_is_replaced(tmp_path: Path) -> None:
    """A socket nobody answers on is removed; our own is removed at the end, and only ours."""
    path = str(tmp_path / "s")
    listen.bind_unix(path).close()
    opened = listen.bind_unix(path)
    with opened:
        inode = os.lstat(path).st_ino
        listen.remove_unix(path, inode + 1)
        assert os.path.exists(path)
        listen.remove_unix(path, inode)
        assert not os.path.exists(path)


def test_unix_socket_of_another_process_is_left_alone(tmp_path: Path) -> None:
    """Also a file that is no socket."""
    path = str(tmp_path / "s")
    with listen.bind_unix(path):
        inode = os.lstat(path).st_ino
        with pytest.raises(StartError, match="another process"):
            listen.bind_unix(path)
        assert os.lstat(path).st_ino == inode
    file = tmp_path / "f"
    file.write_text("keep")
    with pytest.raises(StartError, match="not a socket"):
        listen.bind_unix(str(file))
    assert file.read_text() == "keep"
    with pytest.raises(StartError):
        listen.bind_unix(str(tmp_path / "no" / "folder"))
