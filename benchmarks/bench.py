"""``scripts/bench [ldap|radius|core] …``: measure, print, write docs/benchmarks.md; ``--help`` tells the rest."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import core_bench, ldap_bench, radius_bench, scale
from benchmarks.measure import Plan, Row

DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
BESIDE_MAX = 200_000  # users up to which slapd is loaded too, which takes a minute for every 200,000
SMALL = 10_000
INTRODUCTION = """\
# Benchmarks

Written by `scripts/bench`. Ours beside a well-known server on the same machine with the same data; the load generator
runs on that machine too and takes its share, so only the ratios mean something. A ratio above 1 is in our favour.
No test asserts a time.
"""


def table(rows: list[Row], peer: str) -> str:
    """The rows as a Markdown table, which is also what the terminal shows."""
    lines = [["measured", "outposts", peer, "ratio", "latency per request"]]
    lines += [
        [row.what, row.ours, row.theirs, "–" if row.ratio is None else f"{row.ratio:.1f}", row.note] for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    drawn = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    drawn.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(drawn)


def machine() -> str:
    """What the numbers were taken on."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        model = found[1] if found else model
    build = "the distribution's build" if sys.base_prefix == "/usr" else "built here"
    return f"{len(os.sched_getaffinity(0))} cores ({model}), CPython {platform.python_version()} ({build})"


def write_section(name: str, text: str) -> None:
    """Replace one protocol's section of the page and leave the others."""
    page = DOCS.read_text() if DOCS.exists() else INTRODUCTION
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{text}\n{end}"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    page = pattern.sub(lambda _: section, page) if pattern.search(page) else f"{page}\n{section}\n"
    DOCS.write_text(page)


def section(name: str, title: str, report: scale.Report, facts: tuple[str, ...]) -> int:
    """Print lines and put them on the page."""
    lines = ["| measured | value |", "|---|---|", *(f"| {what.strip()} | {value} |" for what, value in report.lines)]
    text = f"## {title}\n\n" + "\n".join(lines) + f"\n\n- {machine()}\n- " + "\n- ".join(facts)
    print(f"\n{text}")
    write_section(name, text)
    return 0


def large(users: int, refresh: bool, warm: bool, workers: int) -> int:
    """Our daemon with a large directory; one section of the page for each size."""
    report = scale.Report()
    scale.run(users, report, refresh=refresh, warm=warm, workers=workers, beside=users <= BESIDE_MAX)
    also = () if workers == 1 else (f"a supervisor and {workers} workers; the serving process is the supervisor",)
    name = f"ldap-{users}" if workers == 1 else f"ldap-{users}-workers-{workers}"
    return section(name, f"LDAP, {users:,} users", report, scale.FACTS + also)


def sizes(users: int) -> int:
    """Our daemon with 10,000 users beside our daemon with more."""
    report = scale.Report()
    scale.sizes(min(SMALL, users // 10), users, report)
    facts = ("both daemons run all the time and are measured in alternating rounds", *scale.FACTS[-1:])
    return section("ldap-sizes", "LDAP, small and large", report, facts)


def radius(quick: bool, workers: int) -> int:
    """RADIUS beside FreeRADIUS: a section of the page for one process, and one for several workers."""
    plan = replace(radius_bench.QUICK if quick else radius_bench.Plan(), workers=workers)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    rows, facts = radius_bench.run(plan, say)
    rows += radius_bench.handshakes(replace(plan, rsa=True), say)
    facts.insert(0, machine())
    shown = table(rows, "FreeRADIUS") + "\n\n" + "\n".join(f"- {fact}" for fact in facts)
    print(f"\n{shown}")
    if not quick:
        name, title = ("radius", "RADIUS") if workers == 1 else (f"radius-{workers}", f"RADIUS, {workers} workers")
        write_section(name, f"## {title}\n\n{shown}")
        print(f"\nwritten to {DOCS.relative_to(DOCS.parent.parent)}", file=sys.stderr)
    return 0


def core(quick: bool) -> int:
    """The embedded core alone."""
    report = scale.Report()
    core_bench.run(report, quick=quick)
    return 0 if quick else section("core", "Embedded core", report, core_bench.FACTS)


def main(arguments: list[str]) -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("what", nargs="?", default="ldap", choices=["ldap", "radius", "core"])
    parser.add_argument("--quick", action="store_true", help="fewer users, one short round; docs stay as they are")
    parser.add_argument("--users", type=int, help="number of users (default 10,000)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes of ours (default 1)")
    parser.add_argument(
        "--refresh", action="store_true", help="large directory: refreshes with 1 %% changed under load"
    )
    parser.add_argument("--warm-start", action="store_true", help="large directory: start from the sealed state")
    parser.add_argument("--million", action="store_true", help="large directory: 1,000,000 users (the others: 100,000)")
    parser.add_argument("--sizes", action="store_true", help="searches with 10,000 users and with --users (100,000)")
    chosen = parser.parse_args(arguments)
    if chosen.what == "core":
        return core(chosen.quick)
    if chosen.what == "radius":
        return radius(chosen.quick, chosen.workers)
    if chosen.sizes:
        return sizes(chosen.users or 100_000)
    if chosen.refresh or chosen.warm_start or chosen.million:
        users = 1_000_000 if chosen.million else chosen.users or 100_000
        return large(users, chosen.refresh, chosen.warm_start, chosen.workers)
    plan = replace(ldap_bench.QUICK if chosen.quick else Plan(), workers=chosen.workers)
    if chosen.users:
        plan = replace(plan, users=chosen.users)
    rows, facts = ldap_bench.run(plan, lambda text: print(text, file=sys.stderr, flush=True))
    facts.insert(0, machine())
    shown = table(rows, "slapd")
    print(f"\n{shown}\n\n" + "\n".join(f"- {fact}" for fact in facts))
    if not chosen.quick and not chosen.users and chosen.workers == 1:
        write_section("ldap", "## LDAP\n\n" + shown + "\n\n" + "\n".join(f"- {fact}" for fact in facts))
        print(f"\nwritten to {DOCS.relative_to(DOCS.parent.parent)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
