#!/usr/bin/env bash
# Puts a built wsluice in front of applications that nobody here wrote: Socket.IO, graphql-ws, MQTT, Vite, Jupyter, Yjs, Node-RED, noVNC and
# webpack-dev-server, each over ws and over wss, each with a reload and the loss of its server in the middle; and behind an nginx.
#
#   tests/apps/run.sh target/release/wsluice [NAME…]      such as `vite mqtt`; by default all
#
# Installs the npm and Python packages beside this script, and Debian's mosquitto, nginx and Chromium where they are missing (no service is started).
# Needs node 20, python 3.11 and openssl. Ends only processes that it started.
set -euo pipefail

binary=$(realpath "${1:?usage: $0 BINARY [NAME…]}")
shift
cd "$(dirname "${BASH_SOURCE[0]}")"
[ $# -gt 0 ] || set -- socketio graphql mqtt vite jupyter yjs node-red novnc webpack nginx

say() { printf '\n== %s\n' "$*"; }

say "packages"
# Chromium is Debian's; playwright must not look for one of its own.
PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --no-audit --no-fund --loglevel=error
if ! cmp -s requirements.txt .venv/installed; then
  rm -rf .venv
  python3 -m venv .venv
  # The list is whole; websockify also names numpy and others, which it does without.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
  # As devices still have it.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/paho-1.3.0 paho-mqtt==1.3.0
  cp requirements.txt .venv/installed
fi
need=()
[ -x "${CHROMIUM:-/usr/bin/chromium}" ] || need+=(chromium)
PATH=$PATH:/usr/sbin
command -v mosquitto > /dev/null || need+=(mosquitto)
command -v nginx > /dev/null || need+=(nginx-light)
scratch=$(mktemp -d)
policy=/usr/sbin/policy-rc.d
trap 'rm -rf "$scratch"; [ ! -e "$scratch.policy" ] || rm -f "$policy" "$scratch.policy"' EXIT
if [ ${#need[@]} -gt 0 ]; then
  apt-get update -qq
  [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' > "$policy"; chmod +x "$policy"; touch "$scratch.policy"; }
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" > /dev/null
fi

# A certificate of this run alone, which the clients are told to trust.
export WSLUICE_CERT=$scratch/localhost.crt WSLUICE_KEY=$scratch/localhost.key NODE_EXTRA_CA_CERTS=$scratch/localhost.crt
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" -addext "basicConstraints=critical,CA:FALSE" \
  -keyout "$WSLUICE_KEY" -out "$WSLUICE_CERT" 2> "$scratch/openssl.log" || { cat "$scratch/openssl.log"; exit 1; }

# Every application runs even where an earlier one failed: one run tells all. The limits are far above what any may take.
failed=()
for name in "$@"; do
  say "$name"
  timeout --kill-after=10 600 node "$name.mjs" "$binary" || failed+=("$name")
done

if [ ${#failed[@]} -gt 0 ]; then
  say "failed: ${failed[*]} (after ${SECONDS} s)"
  exit 1
fi
say "all applications passed (after ${SECONDS} s)"
