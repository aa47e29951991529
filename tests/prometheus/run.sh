#!/usr/bin/env bash
# Asks a real Prometheus every query of the dashboard and of the alert rules, while it scrapes a running wsluice.
#
#   tests/prometheus/run.sh target/release/wsluice
#
# Needs prometheus and promtool (Debian: prometheus), openssl, and Python 3 with its standard library. Uses free ports
# on loopback and a temporary directory, and ends all that it started.
set -euo pipefail

binary=$(realpath "${1:?usage: $0 path/to/wsluice}")
cd "$(dirname "$0")/../.."

for tool in prometheus promtool openssl python3; do
    command -v "$tool" >/dev/null || { echo "$0: $tool is not installed" >&2; exit 1; }
done

promtool check config grafana/prometheus.yaml
promtool check rules grafana/alerts/*.yaml
promtool test rules tests/prometheus/alerts.test.yaml

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$scratch/tls.key" -out "$scratch/tls.crt" 2>/dev/null

PYTHONDONTWRITEBYTECODE=1 python3 tests/prometheus/check.py "$binary" "$scratch"
