#!/usr/bin/env bash
# Drives a built wsluice with peers that nobody here wrote: npm's ws, Python's websockets, h2 with wsproto, node's http2,
# curl, h2load, headless Chromium and Firefox; and with tokens that nobody here made.
#
#   tests/clients/run.sh target/release/wsluice [SCREENSHOT.png]
#
# Installs what is missing: the npm and Python packages beside this script; browsers, curl and h2load from Debian for the
# system.
# Needs node 20, python 3.11 and openssl. Ends only processes that it started.
set -euo pipefail

binary=$(realpath "${1:?usage: $0 BINARY [SCREENSHOT]}")
screenshot=$(realpath -m "${2:-$(dirname "$binary")/demo.png}")
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { printf '\n== %s\n' "$*"; }

say "packages"
# Chromium is Debian's; playwright must not look for one of its own.
PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --no-audit --no-fund --loglevel=error
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
need=()
[ -x "${CHROMIUM:-/usr/bin/chromium}" ] || need+=(chromium)
[ -x "${FIREFOX:-/usr/bin/firefox-esr}" ] || need+=(firefox-esr)
command -v curl > /dev/null || need+=(curl)
command -v h2load > /dev/null || need+=(nghttp2-client)
if [ ${#need[@]} -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" > /dev/null
fi

# A certificate of this run alone, which the clients are told to trust.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export WSLUICE_CERT=$scratch/localhost.crt WSLUICE_KEY=$scratch/localhost.key
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
  -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" -addext "basicConstraints=critical,CA:FALSE" \
  -keyout "$WSLUICE_KEY" -out "$WSLUICE_CERT" 2> "$scratch/openssl.log" || { cat "$scratch/openssl.log"; exit 1; }

# Every suite runs even where an earlier one failed: one run tells all. The limits are far above what any case may take.
failed=()
suite() {
  local name=$1
  shift
  say "$name"
  timeout --kill-after=10 600 "$@" || failed+=("$name")
}
suite "npm ws" node ws.mjs "$binary"
suite "Python websockets" .venv/bin/python websockets_suite.py "$binary"
suite "HTTP/2 by Python's h2 and wsproto" .venv/bin/python http2_suite.py "$binary"
suite "HTTP/2 by node, curl and h2load" node http2.mjs "$binary"
suite "tokens of jose, PyJWT and Authlib" node tokens.mjs "$binary"
suite "live sessions through upgrades" node upgrades.mjs "$binary"
suite "Chromium on the demo page" node chromium.mjs "$binary" "$screenshot"
suite "Chromium and Firefox on HTTP/2" node browsers.mjs "$binary"

if [ ${#failed[@]} -gt 0 ]; then
  say "failed: ${failed[*]}"
  exit 1
fi
say "all suites passed; the demo page is in $screenshot"
