"""``healthcheck``: asks the daemon on this machine whether it lives, over its unix socket; exit code 0 or 1.

Containers run it every five seconds, so it imports little and speaks its one HTTP request itself (core-contract §8.2).
"""

import os
import socket
import sys

SOCKET_NAME = "authentik-metrics.sock"
TIMEOUT_S = 2.5  # the caller gives up after 3 s
REQUEST = (
    b"HEAD /outpost.goauthentik.io/ping HTTP/1.1\r\n"
    b"Host: localhost\r\n"
    b"User-Agent: goauthentik.io/healthcheck\r\n"
    b"Connection: close\r\n\r\n"
)
MAX_STATUS_LINE = 512  # bytes; a real one has about 30


def main(arguments: list[str]) -> int:
    """Exit code: 0 if the daemon answers with a status below 400, else 1."""
    if arguments:
        sys.stderr.write("healthcheck takes no arguments\n")
        return 1
    path = os.path.join(os.environ.get("TMPDIR") or "/tmp", SOCKET_NAME)
    try:
        status = ask(path)
    except OSError as error:
        sys.stderr.write(f"healthcheck: {path}: {error.strerror or 'no answer'}\n")
        return 1
    except ValueError:
        sys.stderr.write(f"healthcheck: {path}: the answer is not HTTP\n")
        return 1
    return 0 if status < 400 else 1


def ask(path: str) -> int:
    """The status that the daemon behind a socket answers. Raises ``OSError`` or ``ValueError``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(path)
        connection.sendall(REQUEST)
        received = b""
        while b"\r\n" not in received and len(received) < MAX_STATUS_LINE:
            part = connection.recv(MAX_STATUS_LINE)
            if not part:
                break
            received += part
    words = received.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or len(words[1]) != 3:
        raise ValueError("not an HTTP status line")
    return int(words[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
