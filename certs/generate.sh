#!/usr/bin/env bash
# Makes a self-signed certificate and its key beside this script, for trying things out:
#
#   certs/generate.sh [FILE_NAME [DNS_NAME ...]]        default: server, for localhost
#
# The key is ECDSA P-256, readable by you alone. Nothing here is for production: there a CA signs (Let's Encrypt, yours).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
name=${1:-server}
shift || true
[ $# -gt 0 ] || set -- localhost
names=$(printf 'DNS:%s,' "$@")IP:127.0.0.1,IP:::1
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
    -subj "/CN=$1" -addext "subjectAltName=$names" -addext "basicConstraints=critical,CA:FALSE" \
    -keyout "$name.key" -out "$name.crt" 2>/dev/null
chmod 644 "$name.crt"
echo "certs/$name.crt and certs/$name.key, for $* and loopback, 30 days"
