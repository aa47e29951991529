#!/usr/bin/env bash
# Autobahn's fuzzing client and server against real peers, directly and through a built wsluice, compared case by case.
#
#   tests/autobahn/run.sh target/release/wsluice
#
# The suite needs Python 2.7, which pyenv offers where it is installed (or AUTOBAHN_PYTHON names one); without it nothing is done, and that is said.
# Installs the suite's packages beside this script, and npm's ws beside the other clients. Ends only processes that it started.
set -euo pipefail

binary=$(realpath "${1:?usage: $0 BINARY}")
cd "$(dirname "${BASH_SOURCE[0]}")"

python=${AUTOBAHN_PYTHON:-}
if [ -z "$python" ]; then
  root=$( { command -v pyenv > /dev/null && pyenv root; } || echo "${PYENV_ROOT:-$HOME/.pyenv}")
  for python in "$root"/versions/2.7.*/bin/python python2.7 ""; do
    [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2> /dev/null && break
  done
fi
if [ -z "$python" ]; then
  echo "SKIPPED: Autobahn's test suite needs Python 2.7, and there is none here (pyenv install 2.7.18)"
  exit 0
fi

# Not a virtualenv: Python 2.7 has none of its own. Kept as long as the list of packages is the same.
export AUTOBAHN_PYTHON=$python AUTOBAHN_SITE=$PWD/.venv/site
if ! cmp -s requirements.txt .venv/installed; then
  rm -rf .venv
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target "$AUTOBAHN_SITE" -r requirements.txt 2>&1 \
    | { grep -v -e '^DEPRECATION:' || true; }
  cp requirements.txt .venv/installed
fi
[ -d ../clients/node_modules/ws ] || (cd ../clients && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --no-audit --no-fund --loglevel=error)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" -addext "basicConstraints=critical,CA:FALSE" \
  -keyout "$scratch/localhost.key" -out "$scratch/localhost.crt" 2> "$scratch/openssl.log" || { cat "$scratch/openssl.log"; exit 1; }

timeout --kill-after=10 900 python3 compare.py "$binary" "$scratch"
