# Sourced by the other scripts: finds a Python, makes .venv, installs what requirements.lock pins.
# usage: . scripts/setup.sh; outposts_setup run|all [folder]     folder: .venv unless said
# run = what the product needs; all = also tests and checks. Does nothing when the lock file has not changed since.

outposts_fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

outposts_find_python() {
    for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

outposts_setup() {
    wanted=$1
    venv=${2:-.venv}
    stamp="$venv/.outposts-$wanted"
    if [ -x "$venv/bin/python" ] && [ -f "$stamp" ] && cmp -s requirements.lock "$stamp" &&
        "$venv/bin/python" -c 'import outposts' >/dev/null 2>&1; then
        return 0
    fi
    if [ ! -x "$venv/bin/python" ]; then
        python=$(outposts_find_python) || outposts_fail \
            "Outposts needs Python 3.11 or newer; found: $(python3 --version 2>&1 || echo 'no python3')." \
            "Install it (Debian: apt-get install python3 python3-venv) or name one: PYTHON=/path/to/python3 $0"
        printf 'Creating %s with %s …\n' "$venv" "$("$python" --version)" >&2
        "$python" -m venv "$venv" || outposts_fail \
            "Could not create $venv. On Debian: apt-get install python3-venv; then delete $venv and try again."
    fi
    printf 'Installing the pinned packages (first run only, about a minute) …\n' >&2
    pins=$(mktemp)
    if [ "$wanted" = run ]; then
        sed '/^# --- tests and checks only ---/,$d' requirements.lock >"$pins"
    else
        cp requirements.lock "$pins"
    fi
    if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$pins"; then
        rm -f "$pins"
        outposts_fail "Installing packages failed; see above. It needs a package index (or PIP_FIND_LINKS with the files)."
    fi
    rm -f "$pins"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . ||
        outposts_fail "Installing the project itself into $venv failed; see above."
    cp requirements.lock "$stamp"
    if [ "$wanted" = all ]; then
        cp requirements.lock "$venv/.outposts-run"
    fi
}
