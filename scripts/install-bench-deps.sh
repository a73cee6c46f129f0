#!/usr/bin/env bash
# Installs the Debian packages that only `make bench` needs: what godwit is measured beside. Quick when all are there.
set -euo pipefail
need=(
	# NBD servers and clients, image copies
	nbdkit qemu-utils qemu-system-common libnbd-bin fio
	# how raw virsh's hosts are told about disks
	jq
	# files are served from XFS
	xfsprogs
	# echo servers on Java (some 270 MB with all they depend on)
	default-jdk-headless libnetty-java
)
missing=()
for p in "${need[@]}"; do
	dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
((${#missing[@]})) || exit 0
[ "$(id -u)" = 0 ] || { echo "run as root to install: ${missing[*]}" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends "${missing[@]}"
