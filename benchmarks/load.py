"""The load generator: raw sockets, one epoll loop, requests encoded beforehand, answers recognised by their last bytes.

A process of its own. It reads one job as JSON from standard input and writes one result as JSON to standard output.
The same code loads every server. Each connection has one request under way (closed loop) and takes the next one from
its own share of the list. An answer is complete when the last bytes received equal ``tail`` (an LDAP search is always
ended by the same SearchResultDone, because every request has the same message id); what the answers say is checked
by the caller before anything is timed, and an error has another tail, so it stops the run instead of being counted.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from array import array
from contextlib import ExitStack
from typing import Any

STALL_S = 20.0  # silence after which a run has failed


class Stalled(Exception):
    """An answer did not come, or was not the expected one."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job.

    ``address``, ``connections``, ``first`` and ``first_tail`` (one exchange per connection before the clock starts,
    such as a bind), ``requests`` and ``tail`` (hexadecimal), ``warm_up_s``, ``seconds``. The result counts only
    answers inside the ``seconds``; latencies are in microseconds.
    """
    with ExitStack() as stack:
        return _run(job, stack)


def _run(job: dict[str, Any], stack: ExitStack) -> dict[str, Any]:
    requests = [bytes.fromhex(request) for request in job["requests"]]
    tail = bytes.fromhex(job["tail"])
    count = job["connections"]
    sockets: dict[int, socket.socket] = {}
    for _ in range(count):
        connection = stack.enter_context(socket.create_connection(tuple(job["address"]), STALL_S))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if job.get("first"):
            connection.sendall(bytes.fromhex(job["first"]))
            _await(connection, bytes.fromhex(job["first_tail"]))
        sockets[connection.fileno()] = connection
    poll = stack.enter_context(select.epoll())
    position: dict[int, int] = {}
    started: dict[int, int] = {}
    kept: dict[int, bytes] = {}
    size = job.get("receive", 65536)
    clock = time.perf_counter_ns
    for offset, (number, connection) in enumerate(sockets.items()):
        poll.register(number, select.EPOLLIN)
        position[number] = offset * len(requests) // count
        kept[number] = b""
        started[number] = clock()
        connection.sendall(requests[position[number]])
    begin = clock() + int(job["warm_up_s"] * 1e9)
    end = begin + int(job["seconds"] * 1e9)
    latencies = array("Q")
    octets = 0
    answered = 0
    total = len(requests)
    shortest = len(tail)
    cpu_at_begin = 0.0
    measuring = False
    now = clock()
    while now < end:
        events = poll.poll(STALL_S)
        if not events:
            raise Stalled(f"no answer within {STALL_S} s; last bytes {next(iter(kept.values()))[-40:].hex()}")
        for number, _ in events:
            connection = sockets[number]
            data = connection.recv(size)
            if not data:
                raise Stalled("the server closed the connection")
            if measuring:
                octets += len(data)
            if len(data) < shortest:
                data = kept[number] + data
            if not data.endswith(tail):
                kept[number] = data[-shortest:] if len(data) >= shortest else data
                continue
            kept[number] = b""
            answered += 1
            now = clock()
            if measuring:
                latencies.append(now - started[number])
            place = position[number] + 1
            if place == total:
                place = 0
            position[number] = place
            started[number] = now
            connection.send(requests[place])
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
        "seconds": elapsed,
        "octets": octets,
        "rate": len(ordered) / elapsed,
        "p50_us": ordered[len(ordered) // 2] / 1000 if ordered else 0.0,
        "p99_us": ordered[len(ordered) * 99 // 100] / 1000 if ordered else 0.0,
        "generator_busy": (time.process_time() - cpu_at_begin) / elapsed,
    }


def _await(connection: socket.socket, tail: bytes) -> None:
    data = b""
    while not data.endswith(tail):
        more = connection.recv(65536)
        if not more:
            raise Stalled(f"the server closed the connection after {data.hex()}")
        data += more


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
