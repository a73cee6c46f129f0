#!/usr/bin/env bash
# Installs what a lab of real hosts, its test guest and the stock OpenStack clients need on Debian 12. Quick when all is there.
#
# No daemon of the machine itself is installed: libvirtd comes without its service package, because only the lab's hosts run it. The guest's
# kernel is unpacked into a cache, not installed, so the machine's own boot menu stays as it is.
set -euo pipefail

need=(
	# hosts
	libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils
	iproute2 iputils-ping nftables util-linux
	# the disks of storage nodes
	xfsprogs
	# GlusterFS nodes and clients
	glusterfs-server glusterfs-client attr
	# a real DHCP client for the tests of guests' networks
	busybox-static
	# the test guest's image: FAT without mounting, boot loader, module dependencies
	mtools dosfstools genisoimage syslinux syslinux-common kmod
	# a real IPMI controller for each host
	openipmi
	# clients
	python3-openstackclient python3-novaclient python3-cinderclient python3-watcherclient python3-masakariclient
)
missing=()
for p in "${need[@]}"; do
	dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done

fresh_lists=no
refresh() {
	[ "$fresh_lists" = yes ] && return
	[ "$(id -u)" = 0 ] || { echo "run as root to install: ${missing[*]:-the guest kernel}" >&2; exit 1; }
	apt-get update -q
	fresh_lists=yes
}

if ((${#missing[@]})); then
	refresh
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

# A kernel for guests: the installed cloud kernel if there is one, else the newest of the archive, unpacked.
kernels=${XDG_CACHE_HOME:-$HOME/.cache}/godwit/kernel
has_kernel() { compgen -G "$1/boot/vmlinuz-*-cloud-amd64" >/dev/null && compgen -G "$1/lib/modules/*-cloud-amd64/modules.dep" >/dev/null; }
if has_kernel "" || has_kernel "$kernels"; then
	exit 0
fi
refresh
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p' | head -n 1)
[ -n "$package" ] || { echo "the package mirror has no linux-image-cloud-amd64" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
(cd "$work" && apt-get download -q -o APT::Sandbox::User=root "$package")
dpkg-deb -x "$work"/*.deb "$work/root"
depmod -b "$work/root" "${package#linux-image-}"
mkdir -p "$(dirname "$kernels")"
rm -rf "$kernels"
mv "$work/root" "$kernels"
echo "guest kernel: ${package#linux-image-}"
