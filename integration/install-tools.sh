#!/usr/bin/env bash
# Installs what the tests need from the system: Maven and Java, which fetch and run Kafka, MariaDB, and Python, which runs the
# server that stands in for MongoDB. Debian, as root; elsewhere it says what is missing. It changes nothing where all is
# present.
set -euo pipefail

missing=()
command -v mvn >/dev/null || missing+=(maven)
command -v java >/dev/null || missing+=(default-jre-headless)
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
PATH="$PATH:/usr/sbin" command -v mariadbd >/dev/null || missing+=(mariadb-server-core)
command -v my_print_defaults >/dev/null || missing+=(mariadb-client-core) # mariadb-install-db runs it; once it was in the server's package
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "install-tools: missing: ${missing[*]}. Install Maven, a Java of 17 or newer, MariaDB and Python 3 with venv, or run this as root on Debian." >&2
  exit 1
fi
echo "install-tools: apt-get install ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >&2
apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
