"""The load generator for RADIUS: UDP sockets, one epoll loop, requests encoded beforehand, answers known by their code.

A process of its own; one job as JSON on standard input, one result as JSON on standard output. Each socket has one
request under way (closed loop). Requests of one socket differ in identifier and authenticator, so none is a copy of
another, unless ``copies`` is set: then each socket sends the same octets again and again. ``noise`` datagrams, which
nobody answers, go out before each request.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from array import array
from typing import Any

from outposts.radius.rfc import Attribute, Code
from outposts.radius.wire import encode_request, hide_password

STALL_S = 5.0  # silence after which a run has failed
MAX_LOST = 20  # datagrams that may get lost in a run before it has failed
USERS = 1000  # names that log in, in turn
RETRY_S = 1.0  # a datagram not answered by then is lost


class Stalled(Exception):
    """Answers did not come, or were not the expected ones."""


def packets(job: dict[str, Any]) -> list[bytes]:
    """What to send: ``kind`` is ``pap`` or ``status``; ``count`` of them."""
    secret = job["secret"].encode()
    made = []
    for number in range(job["count"]):
        authenticator = os.urandom(16)
        identifier = number % 256
        if job["kind"] == "status":
            made.append(encode_request(Code.STATUS_SERVER, identifier, secret, (), authenticator=authenticator))
            continue
        hidden = hide_password(secret, authenticator, job["password"].encode())
        user = b"%s%d" % (job["user"].encode(), number % USERS)
        attributes = (
            (Attribute.USER_NAME, user),
            (Attribute.USER_PASSWORD, hidden),
            (Attribute.NAS_IP_ADDRESS, b"\x7f\0\0\1"),
        )
        made.append(encode_request(Code.ACCESS_REQUEST, identifier, secret, attributes, authenticator=authenticator))
    return made


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job: ``address``, ``sockets``, ``expect`` (a code), ``warm_up_s``, ``seconds``, and the ``packets``."""
    requests = packets(job)
    noise = [bytes.fromhex(item) for item in job.get("noise", [])]
    address = tuple(job["address"])
    count = job["sockets"]
    share = len(requests) // count // 256 * 256 or 256
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    position: dict[int, int] = {}
    started: dict[int, int] = {}
    clock = time.perf_counter_ns
    expected = job["expect"]
    copies = job.get("copies", False)
    for number in range(count):
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind((job.get("source", "127.0.0.1"), 0))
        opened.connect(address)
        opened.setblocking(False)
        fd = opened.fileno()
        sockets[fd] = opened
        position[fd] = number * share
        poll.register(fd, select.EPOLLIN)
    base = dict(position)
    for fd, opened in sockets.items():
        started[fd] = clock()
        opened.send(requests[position[fd]])
    begin = clock() + int(job["warm_up_s"] * 1e9)
    end = begin + int(job["seconds"] * 1e9)
    latencies = array("Q")
    answered = lost = 0
    measuring = False
    cpu_at_begin = 0.0
    now = last = clock()
    while now < end:
        events = poll.poll(RETRY_S)
        now = clock()
        if not events or now - last > STALL_S * 1e9:
            if now - last > STALL_S * 1e9:
                raise Stalled(f"no answer within {STALL_S} s after {answered} answers")
            for fd, at in started.items():
                if now - at > RETRY_S * 1e9:
                    lost += 1
                    started[fd] = now
                    sockets[fd].send(requests[position[fd]])
            if lost > MAX_LOST:
                raise Stalled(f"{lost} datagrams lost after {answered} answers")
        for fd, _ in events:
            opened = sockets[fd]
            try:
                data = opened.recv(4096)
            except BlockingIOError:
                continue
            place = position[fd]
            if data[1] != requests[place][1]:
                continue  # late
            if data[0] != expected:
                raise Stalled(f"code {data[0]} instead of {expected}")
            answered += 1
            now = last = clock()
            if measuring:
                latencies.append(now - started[fd])
            if not copies:
                place += 1
                if place >= base[fd] + share or place >= len(requests):
                    place = base[fd]
                position[fd] = place
            for item in noise:
                opened.send(item)
            started[fd] = now
            opened.send(requests[place])
        now = clock()
        if not measuring and now >= begin:
            measuring = True
            begin = now
            cpu_at_begin = time.process_time()
    elapsed = (now - begin) / 1e9
    ordered = sorted(latencies)
    return {
        "answers": len(ordered),
        "answers_with_warm_up": answered,
        "rate": len(ordered) / elapsed,
        "p50_us": ordered[len(ordered) // 2] / 1000 if ordered else 0.0,
        "p99_us": ordered[len(ordered) * 99 // 100] / 1000 if ordered else 0.0,
        "max_us": ordered[-1] / 1000 if ordered else 0.0,
        "lost": lost,
        "generator_busy": (time.process_time() - cpu_at_begin) / elapsed,
    }


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
