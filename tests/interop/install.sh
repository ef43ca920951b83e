#!/usr/bin/env bash
# Installs the brokers and peers of the matrix, each from its language's registry, into this folder; what is written
# in C stands on Debian's packages. What is there already stays; a language that is not on the machine is named, and
# left out.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
made=$here/.made
export PATH=$PATH:/usr/local/go/bin
mkdir -p "$made"

have() {
    command -v "$1" >/dev/null && return
    echo "interop: no $1 on this machine: $2 is not run" >&2
    return 1
}

# fresh TARGET SOURCE...: whether the target is older than one of its sources, or not there.
fresh() {
    local target=$1 source
    shift
    [ -e "$target" ] || return 0
    for source in "$@"; do
        [ "$source" -nt "$target" ] && return 0
    done
    return 1
}

node() {
    fresh "$1/node_modules/made" "$1"/package*.json || return 0
    (cd "$1" && npm ci --no-audit --no-fund --ignore-scripts --silent && touch node_modules/made)
}

golang() {
    fresh "$made/$1" "$2"/* || return 0
    (cd "$2" && GOFLAGS=-mod=readonly go build -o "$made/$1" .)
    touch "$made/$1"
}

jvm() {
    fresh "$made/$1.classpath" "$2/pom.xml" "$2"/src/main/java/* || return 0
    mvn --quiet --batch-mode -Dstyle.color=never --file "$2/pom.xml" compile dependency:build-classpath \
        -Dmdep.outputFile="$made/$1.classpath"
    touch "$made/$1.classpath"
}

c() {
    fresh "$made/$1" "$2/peer.c" || return 0
    cc -std=gnu11 -O1 -Wall -Wextra -Werror -o "$made/$1" "$2/peer.c" "-l$3"
}

if have npm "what is written in JavaScript"; then
    node servers/aedes
    node clients/mqttjs
fi

if have go "what is written in Go"; then
    golang mochi servers/mochi
    golang paho_golang clients/paho_golang
fi

if have cargo "what is written in Rust"; then
    # All at once, since what they share is compiled once; cargo knows what is there already.
    cargo build --quiet --locked --workspace --target-dir "$made/cargo"
fi

if have mvn "what is written in Java"; then
    jvm hivemq servers/hivemq
    jvm moquette servers/moquette
    jvm hivemq-client clients/hivemq
    jvm paho_java clients/paho_java
fi

if have cc "what is written in C"; then
    # C has no registry: tests/install-servers.sh takes it from Debian.
    if cc -E -include MQTTAsync.h -x c /dev/null >/dev/null 2>&1; then
        c paho_c clients/paho_c paho-mqtt3a
    else
        echo "interop: no MQTTAsync.h (Debian: libpaho-mqtt-dev): Eclipse Paho for C is not run" >&2
    fi
fi

# A venv of their own: their dependencies are not those of the tests.
if fresh "$made/venv/made" clients/python/requirements.txt; then
    "${PYTHON:-python3}" -m venv "$made/venv"
    "$made/venv/bin/python" -m pip install --quiet --requirement clients/python/requirements.txt
    touch "$made/venv/made"
fi
