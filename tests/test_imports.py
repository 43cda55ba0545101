"""Who may import whom: every module has a level, imports go down, or sideways without a cycle."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("common", "outposts", "core")

# Level of each module by dotted path; a row ending in ".*" covers everything below that package.
# 5 entry points · 4 sockets and signals · 3 conversations with the core and orchestration ·
# 2 state that is swapped whole · 1 rules without input or output · 0 facts and names
LEVELS: dict[str, int] = {
    # common
    "common.errors": 0,
    "common.setting_rows": 0,
    "common.setting_rows_ldap": 0,
    "common.setting_rows_proxy": 0,
    "common.setting_rows_radius": 0,
    "common.setting_values": 0,
    "common.settings": 0,
    "common.records": 0,
    "common.challenges": 0,
    "common.logs": 0,
    "common.metrics": 0,
    "common.version": 0,
    "common.outcomes": 0,
    "common.endpoint": 1,
    "common.backoff": 0,
    "common.events": 1,
    "common.openings": 1,
    "common.flow": 1,
    "common.dialogue": 1,
    "common.paused": 2,
    "common.proxyproto": 1,
    "common.published": 2,
    "common.sealed": 2,
    "common.throttle": 2,
    "common.reactor": 4,
    "common.tls": 2,
    "common.client_certificate": 2,
    "common.cache": 3,
    "common.api": 3,
    "common.transport": 3,
    "common.lean_transport": 3,
    "common.flow_client": 3,
    "common.login": 3,
    "common.paused_login": 3,
    "common.shared_store": 3,
    "common.link": 3,
    "common.listen": 4,
    "common.health": 4,
    "common.service": 4,
    "common.daemon": 4,
    "common.worker_wire": 1,
    "common.setting_transfer": 1,
    "common.metric_merge": 1,
    "common.worker_channel": 4,
    "common.worker_process": 4,
    "common.worker": 4,
    "common.workers": 4,
    # command line
    "outposts.__main__": 5,
    "outposts.demo": 5,
    "outposts.doctor": 5,
    "outposts.doctor_report": 1,
    "outposts.doctor_host": 4,
    "outposts.doctor_client": 4,
    "outposts.doctor_core": 4,
    "outposts.doctor_directory": 4,
    "outposts.doctor_providers": 4,
    "outposts.status": 5,
    "outposts.healthcheck": 3,
    "outposts.docs": 5,
    # LDAP
    "outposts.ldap.rfc": 0,
    "outposts.ldap.ber": 1,
    "outposts.ldap.messages": 1,
    "outposts.ldap.filter_text": 1,
    "outposts.ldap.narrowing": 1,
    "outposts.ldap.client_wire": 1,
    "outposts.ldap.dn": 1,
    "outposts.ldap.wire": 1,
    "outposts.ldap.session": 1,
    "outposts.ldap.filters": 1,
    "outposts.ldap.schema": 1,
    "outposts.ldap.entries": 1,
    "outposts.ldap.syntaxes": 1,
    "outposts.ldap.grams": 1,
    "outposts.ldap.index": 1,
    "outposts.ldap.encoded": 1,
    "outposts.ldap.contents": 1,
    "outposts.ldap.collisions": 1,
    "outposts.ldap.assembly": 2,
    "outposts.ldap.building": 2,
    "outposts.ldap.builder": 2,
    "outposts.ldap.evaluation": 2,
    "outposts.ldap.extensible": 2,
    "outposts.ldap.items": 2,
    "outposts.ldap.stored": 2,
    "outposts.ldap.remembered": 2,
    "outposts.ldap.candidates": 2,
    "outposts.ldap.heavy": 2,
    "outposts.ldap.vlv": 1,
    "outposts.ldap.paging": 2,
    "outposts.ldap.sorting": 2,
    "outposts.ldap.assertion": 2,
    "outposts.ldap.matched_values": 2,
    "outposts.ldap.controls": 2,
    "outposts.ldap.listing": 3,
    "outposts.ldap.user_states": 1,
    "outposts.ldap.rebuild": 2,
    "outposts.ldap.build_job": 2,
    "outposts.ldap.build_process": 5,
    "outposts.ldap.loading": 3,
    "outposts.ldap.direct": 3,
    "outposts.ldap.directory": 2,
    "outposts.ldap.providers": 2,
    "outposts.ldap.bind_cache": 2,
    "outposts.ldap.bound": 2,
    "outposts.ldap.sasl": 1,
    "outposts.ldap.bind_names": 2,
    "outposts.ldap.refusals": 1,
    "outposts.ldap.sync_wire": 1,
    "outposts.ldap.changes": 2,
    "outposts.ldap.feeds": 3,
    "outposts.ldap.stages": 1,
    "outposts.ldap.sync": 3,
    "outposts.ldap.search": 3,
    "outposts.ldap.prepared": 3,
    "outposts.ldap.auth": 3,
    "outposts.ldap.extended": 3,
    "outposts.ldap.compare": 3,
    "outposts.ldap.refresh": 3,
    "outposts.ldap.routing": 3,
    "outposts.ldap.observe": 3,
    "outposts.ldap.connection": 4,
    "outposts.ldap.desk": 4,
    "outposts.ldap.replies": 3,
    "outposts.ldap.service": 4,
    "outposts.ldap.shared": 4,
    "outposts.ldap.server": 4,
    "outposts.ldap.__main__": 5,
    # RADIUS
    "outposts.radius.reports": 2,
    "outposts.radius.das": 1,
    "outposts.radius.das_sender": 4,
    "outposts.radius.accounting": 3,
    "outposts.radius.journal": 3,
    "outposts.radius.journal_redis": 3,
    "outposts.radius.listed": 4,
    "outposts.radius.sessions_command": 5,
    "outposts.radius.radius11": 1,
    "outposts.radius.radsec_stream": 1,
    "outposts.radius.radsec_clients": 2,
    "outposts.radius.radsec_tls": 4,
    "outposts.radius.radsec_connection": 4,
    "outposts.radius.radsec": 4,
    "outposts.radius.additions": 4,
    "outposts.radius.session": 1,
    "outposts.radius.request": 2,
    "outposts.radius.intake": 2,
    "outposts.radius.refusals": 1,
    "outposts.radius.gate": 3,
    "outposts.radius.conversations": 3,
    "outposts.radius.core_watch": 3,
    "outposts.radius.pem_files": 2,
    "outposts.radius.extension": 4,
    "outposts.radius.attributes": 1,
    "outposts.radius.challenge": 3,
    "outposts.radius.auth": 3,
    "outposts.radius.observe": 3,
    "outposts.radius.desk": 4,
    "outposts.radius.server": 4,
    "outposts.radius.service": 4,
    "outposts.radius.shared": 4,
    "outposts.radius.__main__": 5,
    # RADIUS
    "outposts.radius.rfc": 0,
    "outposts.radius.wire": 1,
    "outposts.radius.eap.packet": 1,
    "outposts.radius.eap.fragments": 1,
    "outposts.radius.eap.steps": 1,
    "outposts.radius.eap.gtc": 1,
    "outposts.radius.eap.*": 2,
    "outposts.radius.watched_files": 2,
    "outposts.radius.dictionary": 1,
    "outposts.radius.networks": 2,
    "outposts.radius.providers": 2,
    # proxy
    "outposts.proxy.rfc": 0,
    "outposts.proxy.urls": 1,
    "outposts.proxy.wire": 1,
    "outposts.proxy.dialects": 1,
    "outposts.proxy.clients": 1,
    "outposts.proxy.identity": 1,
    "outposts.proxy.rules": 1,
    "outposts.proxy.cookies": 1,
    "outposts.proxy.state": 1,
    "outposts.proxy.session": 1,
    "outposts.proxy.providers": 2,
    "outposts.proxy.decision": 2,
    "outposts.proxy.verdicts": 2,
    "outposts.proxy.forwarding": 2,
    "outposts.proxy.callback": 2,
    "outposts.proxy.endpoints": 1,
    "outposts.proxy.tokens": 1,
    "outposts.proxy.vault": 2,
    "outposts.proxy.backchannel": 3,
    "outposts.proxy.keys": 3,
    "outposts.proxy.oidc": 3,
    "outposts.proxy.header_auth": 3,
    "outposts.proxy.store": 3,
    "outposts.proxy.store_port": 3,
    "outposts.proxy.renewal": 3,
    "outposts.proxy.store_memory": 3,
    "outposts.proxy.store_sqlite": 3,
    "outposts.proxy.store_redis": 3,
    "outposts.proxy.stores": 3,
    "outposts.proxy.revocation": 3,
    "outposts.proxy.bodies": 1,
    "outposts.proxy.responses": 1,
    "outposts.proxy.pages": 1,
    "outposts.proxy.heads": 2,
    "outposts.proxy.exchange": 3,
    "outposts.proxy.upstream": 3,
    "outposts.proxy.upstream_options": 3,
    "outposts.proxy.upstream_pool": 3,
    "outposts.proxy.tunnels": 3,
    "outposts.proxy.callers": 4,
    "outposts.proxy.listener": 4,
    "outposts.proxy.answers": 3,
    "outposts.proxy.observe": 3,
    "outposts.proxy.handlers": 4,
    "outposts.proxy.shared": 4,
    "outposts.proxy.fast_lane": 4,
    "outposts.proxy.server": 4,
    "outposts.proxy.service": 4,
    "outposts.proxy.__main__": 5,
    # embedded core
    "core.errors": 0,
    "core.lookups": 0,
    "core.durations": 0,
    "core.models": 0,
    "core.model_base": 0,
    "core.devices": 0,
    "core.stage_models": 0,
    "core.oauth2_models": 0,
    "core.settings": 0,
    "core.passwords": 1,
    "core.avatars": 1,
    "core.http_request": 1,
    "core.otp": 1,
    "core.flows.plan": 1,
    "core.database": 2,
    "core.database.*": 2,
    "core.certificates": 2,
    "core.signed": 1,
    "core.random_text": 2,
    "core.hashing": 3,
    "core.mail": 3,
    "core.prompts": 3,
    "core.limits": 1,
    "core.duo": 3,
    "core.blueprints": 3,
    "core.blueprint_tags": 3,
    "core.blueprint_models": 3,
    "core.access": 3,
    "core.sessions": 3,
    "core.services": 3,
    "core.radius_attributes": 3,
    "core.flows.planner": 3,
    "core.flows.executor": 3,
    "core.flows.inspector": 3,
    "core.stages": 3,
    "core.stages.*": 3,
    "core.policies": 3,
    "core.policies.*": 3,
    "core.sources": 3,
    "core.sources.*": 3,
    "core.oauth2.protocol": 1,
    "core.oauth2.*": 3,
    "core.oauth2.web": 4,
    "core.pages.*": 4,
    "core.hub": 4,
    "core.api": 4,
    "core.api.*": 4,
    "core.web": 4,
    "core.web.*": 4,
    "core.server": 4,
    "core.__main__": 5,
}

# Levels 0 and 1 take time and randomness as arguments and know no socket, loop or HTTP library.
FORBIDDEN_BELOW_2 = {
    "socket", "asyncio", "selectors", "ssl", "threading", "twisted", "aiohttp", "httpx", "uvloop", "random", "secrets",
}  # fmt: skip
TWISTED_ONLY_IN = {
    "common.reactor",
    "outposts.ldap.server",
    "outposts.ldap.__main__",
    "outposts.radius.server",
    "outposts.radius.__main__",
}


def modules() -> dict[str, Path]:
    """Dotted path → file of every module; plain package docstring files are left out."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if dotted.endswith(".__init__"):
                dotted = dotted.removesuffix(".__init__")
                tree = ast.parse(path.read_text())
                if all(isinstance(node, ast.Expr) for node in tree.body):
                    continue
            found[dotted] = path
    return found


def level_of(module: str) -> int | None:
    """The level of a module, by its own row or by the row of the package above it."""
    if module in LEVELS:
        return LEVELS[module]
    parts = module.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        row = ".".join(parts[:cut]) + ".*"
        if row in LEVELS:
            return LEVELS[row]
    return None


def imports(path: Path, module: str) -> set[str]:
    """Dotted names that a file imports at run time, ``from a import b`` giving both ``a`` and ``a.b``."""
    names: set[str] = set()
    type_only: set[ast.AST] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            type_only.update(inner for inner in ast.walk(node))
    for node in ast.walk(tree):
        if node in type_only:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")[: -node.level] if path.name != "__init__.py" else module.split(".")
                base = ".".join([*parent, base]).rstrip(".")
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def test_every_module_has_a_level() -> None:
    """A module that is not in the table fails."""
    missing = [module for module in modules() if level_of(module) is None]
    assert not missing, f"add to LEVELS: {missing}"


def test_imports_go_down_or_sideways() -> None:
    """No module imports one of a higher level."""
    known = modules()
    wrong = []
    for module, path in known.items():
        own = level_of(module)
        for name in imports(path, module) & known.keys():
            other = level_of(name)
            if own is not None and other is not None and other > own:
                wrong.append(f"{module} (level {own}) imports {name} (level {other})")
    assert not wrong, "\n".join(wrong)


def test_packages_keep_apart() -> None:
    """``common`` imports neither side, no outpost imports another, ``core`` and ``outposts`` never meet."""
    wrong = []
    for module, path in modules().items():
        top = module.split(".")[0]
        for name in imports(path, module):
            other = name.split(".")[0]
            if other not in PACKAGES or other == top == "common":
                continue
            if top == "common" and other != "common":
                wrong.append(f"{module} imports {name}")
            if {top, other} == {"core", "outposts"} and module != "outposts.__main__":
                wrong.append(f"{module} imports {name}")
            if top == other == "outposts" and module.count(".") > 1 and name.count(".") > 1:
                if module.split(".")[1] != name.split(".")[1]:
                    wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_low_levels_are_without_input_or_output() -> None:
    """Levels 0 and 1 know no socket, event loop, HTTP library or randomness."""
    wrong = []
    for module, path in modules().items():
        level = level_of(module)
        if level is not None and level <= 1:
            for name in imports(path, module):
                if name.split(".")[0] in FORBIDDEN_BELOW_2:
                    wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_twisted_only_where_sockets_meet_rules() -> None:
    """Twisted appears in the LDAP and RADIUS servers and their entry points only."""
    wrong = [
        f"{module} imports {name}"
        for module, path in modules().items()
        if module not in TWISTED_ONLY_IN
        for name in imports(path, module)
        if name.split(".")[0] == "twisted"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_cycles() -> None:
    """Sideways imports are allowed, circles are not."""
    known = modules()
    graph = {module: (imports(path, module) & known.keys()) - {module} for module, path in known.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for name in sorted(graph[module]):
            # ``from package import module`` names the package too; its __init__ is not a circle by itself
            if module.startswith(name + ".") or name.startswith(module + "."):
                continue
            visit(name, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())
