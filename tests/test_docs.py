"""Documentation that can be checked is checked: generated pages are current, codes and metrics are documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from common import errors, metrics
from common.setting_rows import EXTRAS
from outposts import docs
from outposts.ldap import controls
from outposts.ldap.directory import OPERATIONAL
from outposts.ldap.entries import EXTRA_ATTRIBUTES

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("path", sorted(docs.generated()), ids=lambda path: path.name)
def test_generated_pages_are_current(path: Path) -> None:
    """``scripts/check --fix`` (or ``outposts docs``) rewrites them."""
    assert path.read_text() == docs.generated()[path], f"{path.name} is out of date: run `scripts/check --fix`"


def test_every_metric_is_documented() -> None:
    """Each metric object of common/metrics.py has its row."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    names = [m._name for m in vars(metrics).values() if isinstance(m, MetricWrapperBase)]
    assert len(names) > 5
    missing = [name for name in names if name not in page]
    assert not missing


def test_only_one_place_defines_metrics() -> None:
    """No metric of ours is registered outside common/metrics.py."""
    ours = {m._name for m in vars(metrics).values() if isinstance(m, MetricWrapperBase)}
    registered = {
        name.removesuffix("_total").removesuffix("_created")
        for name in REGISTRY._names_to_collectors
        if name.startswith(("authentik_", "outposts_"))
    }
    stray = {n for n in registered if not any(n == o or n.startswith(o + "_") for o in ours)}
    assert not stray


def test_exit_codes_are_documented() -> None:
    """The codes in the error tree are the ones in docs/running.md."""
    page = (ROOT / "docs" / "running.md").read_text()
    for error in (errors.SettingError, errors.StartError):
        assert re.search(rf"^\| {error.exit_code} \|", page, re.MULTILINE)


def test_every_check_of_doctor_is_documented() -> None:
    """The names that findings begin with are the rows of docs/doctor.md."""
    page = (ROOT / "docs" / "doctor.md").read_text()
    rows = " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    checks = set()
    for path in (ROOT / "outposts").glob("doctor*.py"):
        checks |= set(re.findall(r'report\.(?:ok|warn|fail)\(\s*"([a-z ]+)"', path.read_text()))
    assert {"settings", "tls", "flow", "redis"} <= checks
    assert not [check for check in checks if f"`{check}`" not in rows and check != "login"]


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link in README and docs names a file that is there."""
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken


def test_package_docstrings_are_the_map() -> None:
    """Every package says in its first docstring what it is."""
    for path in ROOT.glob("*/__init__.py"):
        if path.parent.name in ("common", "outposts", "core"):
            assert path.read_text().startswith('"""'), path


def test_the_ldap_page_is_complete() -> None:
    """Every setting, control and extended operation of LDAP, and every attribute that it makes."""
    page = (ROOT / "docs" / "ldap.md").read_text()
    settings = [row.name for row in EXTRAS if row.type == "ldap"]
    assert len(settings) > 40
    assert [name for name in settings if f"`{name}`" not in page] == []
    assert [row.oid for row in controls.ROWS if row.oid not in page] == []
    for operation in ("StartTLS", "Who am I", "cancel", "password modify", "compare", "abandon", "unbind"):
        assert operation in page
    for name in (*EXTRA_ATTRIBUTES, *OPERATIONAL.values(), "memberOf", "ak-active", "pwdChangedTime"):
        assert name in page, name


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked to, as code hosts make them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_to_headings_lead_somewhere() -> None:
    """``#nobody-gets-in`` is a heading of the page that the link names."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    broken, found = [], 0
    for page in pages:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            found += 1
            if anchor not in anchors(page.parent / target if target else page):
                broken.append((page.name, target, anchor))
    assert found > 5
    assert not broken


def test_numbers_in_the_settings_have_no_exponents() -> None:
    """Thirty days are 2592000 seconds."""
    assert not re.search(r"\de[+-]\d", (ROOT / "docs" / "settings.md").read_text())
