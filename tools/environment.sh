#!/bin/sh
# tools/environment.sh EXTRA: makes .venv hold this checkout, editable, with one of its extras (demo, test).
#
# Needs nothing but a Python of 3.11 or newer; PYTHON=... names one, else the first that works is taken. Installs only
# when pyproject.toml, or the place of the checkout, is not what was installed last.
set -eu
cd "$(dirname "$0")/.."
extra=$1
venv=.venv

wanted() { pwd; cat pyproject.toml; }
is_current() { [ -f "$venv/installed-$1" ] && wanted | cmp -s - "$venv/installed-$1"; }
is_python() { command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can() { "$1" -c "import $2" 2>/dev/null; }

# Leaves the name in $python. A Python that can make a whole environment is preferred to one that cannot
# (Debian and Ubuntu keep ensurepip in a package of its own).
find_python() {
    python=
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        is_python "$candidate" || continue
        if can "$candidate" "ensurepip, venv"; then python=$candidate; return; fi
        [ -n "$python" ] || python=$candidate
    done
    [ -n "$python" ] && return
    echo "tripleweb needs Python 3.11 or newer; none was found as ${PYTHON:-python3.13, python3.12, python3.11 or python3}." >&2
    echo "Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: make ... PYTHON=/path/to/python" >&2
    exit 1
}

make_venv() {
    find_python
    echo "creating $venv with $("$python" --version) ($python)"
    if can "$python" "ensurepip, venv"; then
        "$python" -m venv "$venv"
    elif can "$python" "venv, pip"; then
        "$python" -m venv --without-pip "$venv"
        "$python" -m pip --python "$venv/bin/python" install --quiet --disable-pip-version-check pip
    elif can "$python" virtualenv; then
        "$python" -m virtualenv --quiet "$venv"
    else
        echo "$python cannot create environments: it has neither ensurepip nor pip nor virtualenv." >&2
        echo "On Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
}

if [ -e "$venv" ] && ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "$venv is broken (its Python is gone, or it was never finished): making it anew"
    rm -rf "$venv"
fi
[ -e "$venv" ] || make_venv
is_current "$extra" || is_current test || {      # what the tests need includes what the demo needs
    echo "installing tripleweb[$extra] into $venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --use-pep517 -e ".[$extra]"
    wanted >"$venv/installed-$extra"
}
