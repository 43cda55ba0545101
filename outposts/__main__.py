"""The command line: ``outposts COMMAND``. Commands are imported when called, so that ``healthcheck`` is quick."""

from __future__ import annotations

import sys

USAGE = """\
usage: outposts COMMAND [ARGUMENTS]

daemons (settings come from the environment, see docs/settings.md)
  ldap          LDAP in front of the core's users and groups
  radius        RADIUS in front of the core's logins: PAP, EAP, accounting, RadSec
                `outposts radius sessions` lists who is online (--json for programs)
  proxy         login in front of web applications: forward auth, or as their reverse proxy;
                first version, docs/proxy.md says what is missing
  core          embedded core: users, groups, flows and tokens from YAML, one SQLite file

tools
  demo          embedded core and all daemons with demo data on this machine; Ctrl-C stops all
  doctor        check settings, the way to the core, providers, flows, ports; --user NAME logs somebody in
  status        what the daemon on this machine is doing: providers, sizes, ages, errors
  healthcheck   exit 0 if a daemon on this machine answers, 1 if not (for containers)
  version       print the version
  docs          rewrite the generated parts of docs/

A daemon needs two settings:
  AUTHENTIK_HOST=https://core.example.org   where the core answers
  AUTHENTIK_TOKEN=...                       the token of the outpost (or AUTHENTIK_TOKEN_FILE=/path)

`outposts COMMAND --help` tells more about a command.
"""
DAEMONS = ("ldap", "radius", "proxy")


def main(arguments: list[str] | None = None) -> int:
    """Run the command named by the first argument and return the exit code."""
    argv = sys.argv[1:] if arguments is None else arguments
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if command in ("--help", "-h", "help"):
        sys.stdout.write(USAGE)
        return 0
    if command in DAEMONS and rest:
        # the images' entry points are called as ``/ldap healthcheck`` and ``/ldap --version``
        if rest[0] in ("healthcheck", "--version", "version"):
            command, rest = rest[0].removeprefix("--"), rest[1:]
        elif rest[0] in ("--help", "-h"):
            sys.stdout.write(USAGE)
            return 0
        elif (command, rest[0]) == ("radius", "sessions"):
            from outposts.radius import sessions_command

            return sessions_command.main(rest[1:])
        else:
            sys.stderr.write(f"outposts {command}: unknown argument {rest[0]!r}; settings come from the environment\n")
            return 2
    if command == "healthcheck":
        from outposts import healthcheck

        return healthcheck.main(rest)
    if command in ("version", "--version"):
        from common.version import version_text

        sys.stdout.write(version_text() + "\n")
        return 0
    if command == "ldap":
        from outposts.ldap.__main__ import main as ldap_main

        return ldap_main()
    if command == "radius":
        from outposts.radius.__main__ import main as radius_main

        return radius_main()
    if command == "proxy":
        from outposts.proxy.__main__ import main as proxy_main

        return proxy_main()
    if command == "core":
        from core.__main__ import main as core_main

        return core_main(rest)
    if command == "demo":
        from outposts import demo

        return demo.main(rest)
    if command == "doctor":
        from outposts import doctor

        return doctor.main(rest)
    if command == "status":
        from outposts import status

        return status.main(rest)
    if command == "docs":
        from outposts import docs

        return docs.main(rest)
    sys.stderr.write(f"outposts: unknown command {command!r}\n\n{USAGE}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
