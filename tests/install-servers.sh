#!/usr/bin/env bash
# Installs what the tests run against (Mosquitto and its clients, Eclipse Paho for C, Chromium and its driver) and count
# with (valgrind), from Debian's packages, where they are missing.
set -euo pipefail
missing=()
for program in mosquitto mosquitto_pub valgrind chromedriver; do
    command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || missing+=("$program")
done
# It has several names.
command -v chromium chromium-browser google-chrome >/dev/null || missing+=(chromium)
# tests/interop goes without it where there is no Debian package.
if command -v cc >/dev/null && command -v apt-get >/dev/null; then
    cc -E -include MQTTAsync.h -x c /dev/null >/dev/null 2>&1 || missing+=(libpaho-mqtt-dev)
fi
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}. Install Mosquitto 2, its clients, valgrind, Chromium and its driver, then run this again." >&2
    exit 1
fi
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
export DEBIAN_FRONTEND=noninteractive
# The tests start their own brokers: the packaged service must not start with the installation.
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env RUNLEVEL=1 apt-get install -y -qq --no-install-recommends \
    mosquitto mosquitto-clients libpaho-mqtt-dev valgrind chromium chromium-driver >/dev/null
