#!/usr/bin/env bash
# Installs every Debian package that building, testing and the lab need. Quick when all are there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
need=(
	ca-certificates git make protobuf-compiler libprotobuf-dev
	# the kernel's io_uring header, which package uring's structures are compared with
	gcc linux-libc-dev
	# peers of package nbd, and what volumes are measured with
	libnbd-bin python3-libnbd nbdkit qemu-utils fio
	# file systems that share blocks, for the tests of volumes
	xfsprogs btrfs-progs
)
missing=()
for p in "${need[@]}"; do
	dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
if ((${#missing[@]})); then
	[ "$(id -u)" = 0 ] || { echo "run as root to install: ${missing[*]}" >&2; exit 1; }
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	apt-get install -y -q --no-install-recommends "${missing[@]}"
fi
exec "$here/install-lab-deps.sh"
