"""What a person gets from ``outposts COMMAND`` before any daemon runs: help, exit codes, clear refusals."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def outposts(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a clean environment."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AUTHENTIK_", "OUTPOSTS_"))}
    return subprocess.run(
        [sys.executable, "-m", "outposts", *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("argument", ["--help", "-h", "help"])
def test_help_names_every_command_and_the_two_needed_settings(argument: str) -> None:
    """Help teaches: what there is and what a daemon needs."""
    done = outposts(argument)
    assert done.returncode == 0
    for word in (
        "ldap",
        "core",
        "demo",
        "doctor",
        "status",
        "healthcheck",
        "version",
        "AUTHENTIK_HOST",
        "AUTHENTIK_TOKEN",
    ):
        assert word in done.stdout


def test_no_command_is_help() -> None:
    """Calling it bare is a question, not a mistake."""
    assert outposts().stdout == outposts("--help").stdout


def test_unknown_command_is_refused_with_usage() -> None:
    """Exit 2 and the list of what there is."""
    done = outposts("ladp")
    assert done.returncode == 2
    assert "ladp" in done.stderr
    assert "usage: outposts" in done.stderr


@pytest.mark.parametrize("command", ["doctor", "status"])
def test_wrong_arguments_of_a_tool_are_exit_2(command: str) -> None:
    """The argument is named, and nothing is looked at."""
    done = outposts(command, "--sideways")
    assert done.returncode == 2
    assert "--sideways" in done.stderr
    assert done.stdout == ""


def test_doctor_without_settings_names_both(tmp_path: object) -> None:
    """Each missing setting is a finding of its own."""
    done = outposts("doctor", TMPDIR=str(tmp_path), AUTHENTIK_LISTEN__METRICS="127.0.0.1:0")
    assert done.returncode == 1
    assert "AUTHENTIK_HOST is not set" in done.stdout
    assert "AUTHENTIK_TOKEN is not set" in done.stdout
    assert "\x1b" not in done.stdout


def test_status_without_a_daemon_says_where_it_asked(tmp_path: object) -> None:
    """Exit 1, the socket's path, and what to try."""
    done = outposts("status", TMPDIR=str(tmp_path), AUTHENTIK_LISTEN__METRICS="127.0.0.1:0")
    assert done.returncode == 1
    assert f"{tmp_path}/authentik-metrics.sock" in done.stderr
    assert "--metrics" in done.stderr


def test_version_is_one_line() -> None:
    """``version``, ``--version`` and the image's ``/ldap --version`` agree."""
    done = outposts("version")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert outposts("--version").stdout == outposts("ldap", "--version").stdout == done.stdout


def test_daemon_takes_no_arguments() -> None:
    """A mistyped argument is named instead of ignored."""
    done = outposts("ldap", "--port", "389")
    assert done.returncode == 2
    assert "--port" in done.stderr


def test_missing_host_is_exit_1_with_usage() -> None:
    """Case C01: the two settings that are needed are named, and nothing is started."""
    done = outposts("ldap")
    assert done.returncode == 1
    assert "AUTHENTIK_HOST" in done.stderr


def test_bad_setting_is_exit_2_with_its_name() -> None:
    """A value that is not accepted names the setting and what is accepted."""
    done = outposts(
        "ldap", AUTHENTIK_HOST="http://127.0.0.1:1", AUTHENTIK_TOKEN="not-a-real-token", AUTHENTIK_INSECURE="maybe"
    )
    assert done.returncode == 2
    assert "AUTHENTIK_INSECURE" in done.stderr
    assert "true" in done.stderr.lower()
    assert "not-a-real-token" not in done.stderr


def test_unknown_own_setting_suggests_the_nearest() -> None:
    """A typing mistake in one of our own names is found at the start."""
    done = outposts(
        "ldap", AUTHENTIK_HOST="http://127.0.0.1:1", AUTHENTIK_TOKEN="t", OUTPOSTS_LDAP__BIND_CACHE_MAXX="300"
    )
    assert done.returncode == 2
    assert "OUTPOSTS_LDAP__BIND_CACHE_MAX" in done.stderr


def test_healthcheck_without_a_process_is_exit_1(tmp_path: object) -> None:
    """Case C29, the half without a process."""
    assert outposts("ldap", "healthcheck", TMPDIR=str(tmp_path)).returncode == 1
