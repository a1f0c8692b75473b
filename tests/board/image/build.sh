#!/bin/bash
# Builds the emulated ARM64 board: Debian 12 that looks like a Raspberry Pi 4, with nothing of this program on it.
#
#   build.sh               all of it, into $EDGE_BOARD (default: edge-pipeline/board in the user's cache folder)
#   MIRROR=url build.sh    Debian mirror; by default the one in this machine's own apt sources
#   SIZE=4G build.sh       size of the board's disk (2G)
#
# Runs as root on Debian 12 x86_64. Makes: board.ext4 vmlinuz initrd.gz pi.dtb id_board id_board.pub host_ed25519.pub
# A stage is skipped when its output is newer than its inputs. No emulation and no loop mount is used to build.
set -euo pipefail
shopt -s nullglob
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BOARD=${EDGE_BOARD:-${XDG_CACHE_HOME:-$HOME/.cache}/edge-pipeline/board}
SIZE=${SIZE:-2G}
SUITE=bookworm
HOST_PACKAGES=(mmdebstrap debian-archive-keyring qemu-system-arm qemu-utils ipxe-qemu gcc-aarch64-linux-gnu make
  device-tree-compiler e2fsprogs cpio kmod openssh-client systemd xz-utils)
BOARD_PACKAGES=(base-files base-passwd bash dash coreutils sed grep mawk tar gzip findutils diffutils util-linux mount
  hostname debianutils libc-bin ncurses-base ncurses-bin procps login passwd libpam-runtime libpam-modules sudo
  linux-image-arm64 busybox-static kmod udev systemd-sysv dbus netbase iproute2 openssh-server openssh-sftp-server rsync
  i2c-tools python3 python3-pip python3-venv libstdc++6)
NOT_NEEDED=(systemd-networkd-wait-online.service systemd-timesyncd.service systemd-hwdb-update.service
  systemd-resolved.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer
  dpkg-db-backup.timer getty@tty1.service serial-getty@ttyAMA0.service)

die()   { printf 'build.sh: %s\n' "$@" >&2; exit 1; }
stage() { echo "[$SECONDS s] $*"; }
stale() { # stale OUTPUT INPUT...: true when OUTPUT is missing or not newer than one of the inputs
  local out=$1 in; shift
  [ -s "$out" ] || return 0
  for in; do [ "$out" -nt "$in" ] || return 0; done
  return 1
}
remember() { # remember FILE: standard input into FILE, whose date changes only when the text does
  local new; new=$(cat)
  [ -f "$1" ] && [ "$new" = "$(cat "$1")" ] || echo "$new" > "$1"
}
digest() { (cd "$HERE" && find "$@" -type f -print0 | sort -z | xargs -0 sha256sum); } # dates change with each checkout

# ------------------------------------------------------------------------------------------- host packages and mirror
host_packages() {
  local missing
  missing=$({ dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${HOST_PACKAGES[@]}" 2>/dev/null || true; } |
    awk '$1 == "installed" {print $2}' | sort -u | comm -13 - <(printf '%s\n' "${HOST_PACKAGES[@]}" | sort) | xargs)
  [ -n "$missing" ] || return 0
  stage "host packages: $missing"
  apt-get -qq update
  # shellcheck disable=SC2086 # one word a package
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing >/dev/null
}

find_mirror() {
  local ask=(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' "Codename: $SUITE" 'Component: main')
  MIRROR=${MIRROR:-$("${ask[@]}" | sed -n 1p)}
  [ -n "$MIRROR" ] || { apt-get -qq update; MIRROR=$("${ask[@]}" | sed -n 1p); }
  [ -n "$MIRROR" ] || die "no $SUITE in this machine's apt sources: set MIRROR"
}

# ------------------------------------------------------------------------------------------------------- the packages
root_tar() { # unpacked, never configured: no ARM code has to run here
  remember parts/packages <<< "${BOARD_PACKAGES[*]}"
  stale parts/root.tar parts/packages || return 0
  stage "packages of the board ($SUITE arm64)"
  find_mirror
  mmdebstrap --quiet --mode=root --arch=arm64 --variant=extract --format=tar \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include="$(IFS=,; echo "${BOARD_PACKAGES[*]}")" \
    "$SUITE" parts/root.tar.new "deb $MIRROR $SUITE main" >/dev/null 2>parts/mmdebstrap.log ||
    die "the packages could not be fetched: $(tail -n 3 parts/mmdebstrap.log)"
  mv parts/root.tar.new parts/root.tar
}

# ---------------------------------------------------------------------------------------------------- kernel modules
modules() { # Debian's arm64 kernel has neither i2c-stub nor ina2xx; fakesoc and fakefreq lie beside this script
  digest fakesoc.c fakefreq.c | remember parts/fakes
  stale parts/modules/done parts/root.tar parts/fakes || return 0
  local kernel host apt headers src=parts/modules deb
  kernel=$(tar -tf parts/root.tar | sed -n 's#.*boot/vmlinuz-##p')
  stage "kernel modules for $kernel"
  find_mirror
  rm -rf "$src" parts/kernel; mkdir -p "$src" parts/kernel/apt/{lists/partial,cache/archives/partial}
  host=$(dpkg --print-architecture)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $MIRROR $SUITE main" > parts/kernel/apt/sources
  apt=(apt-get -qq -o APT::Architectures="$host,arm64" -o APT::Sandbox::User=root -o Dir::State::status=/dev/null
    -o Dir::State::lists="$BOARD/parts/kernel/apt/lists" -o Dir::Cache="$BOARD/parts/kernel/apt/cache"
    -o Dir::Etc::sourcelist="$BOARD/parts/kernel/apt/sources" -o Dir::Etc::sourceparts=/dev/null)
  "${apt[@]}" update
  (cd parts/kernel; "${apt[@]}" download "linux-headers-$kernel:arm64" "linux-headers-${kernel%-arm64}-common" \
    "linux-kbuild-6.1:$host" linux-source-6.1)
  for deb in parts/kernel/linux-{headers,kbuild}-*.deb; do dpkg-deb -x "$deb" parts/kernel; done
  headers=$BOARD/parts/kernel/usr/src/linux-headers-$kernel
  sed -i "s#/usr/src/#$BOARD/parts/kernel/usr/src/#; s#/usr/lib/#$BOARD/parts/kernel/usr/lib/#" \
    "$headers/Makefile" "$headers/.kernelvariables"
  dpkg-deb --fsys-tarfile parts/kernel/linux-source-*.deb | tar -xO --wildcards '*/linux-source-6.1.tar.xz' |
    tar -xJ -C "$src" --strip-components=3 --wildcards '*/drivers/i2c/i2c-stub.c' '*/drivers/hwmon/ina2xx.c'
  cp "$HERE"/fake{soc,freq}.c "$src/"
  echo 'obj-m += i2c-stub.o ina2xx.o fakesoc.o fakefreq.o' > "$src/Makefile"
  make -s -C "$headers" M="$BOARD/$src" ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- CC=aarch64-linux-gnu-gcc \
    modules 2>&1 | grep -v 'Skipping BTF' || true
  [ -s "$src/ina2xx.ko" ] || die "the kernel modules could not be built"
  rm -rf parts/kernel; echo "$kernel" > "$src/done"
}

# ---------------------------------------------------------------------------------------------- keys and device tree
keys() {
  [ -f id_board ] || ssh-keygen -q -t ed25519 -N '' -C board-user -f id_board
  [ -f parts/host_ed25519 ] || ssh-keygen -q -t ed25519 -N '' -C board-host -f parts/host_ed25519
  stale host_ed25519.pub parts/host_ed25519 && cp parts/host_ed25519.pub host_ed25519.pub || true
}

device_tree() { # the emulated machine's own tree under a Pi's name; memory and initrd are filled in by qemu at start
  stale pi.dtb parts/recipe || return 0
  stage "device tree"
  qemu-system-aarch64 -M virt,gic-version=2,dtb-randomness=off,dumpdtb=parts/virt.dtb -cpu cortex-a72 -smp 1 -m 1G \
    -display none >/dev/null 2>&1
  dtc -q -I dtb -O dtb -o parts/pi.dtb parts/virt.dtb
  fdtput -t s parts/pi.dtb / model 'Raspberry Pi 4 Model B Rev 1.4'
  fdtput -t s parts/pi.dtb / compatible raspberrypi,4-model-b brcm,bcm2711 linux,dummy-virt
  mv parts/pi.dtb pi.dtb
}

# --------------------------------------------------------------------------------------------------------- the image
image() {
  stale board.ext4 parts/recipe parts/root.tar parts/modules/done id_board.pub host_ed25519.pub || return 0
  stage "image"
  local root=$BOARD/parts/root kernel
  kernel=$(cat parts/modules/done)
  rm -rf "$root"; mkdir "$root"; tar -C "$root" -xpf parts/root.tar
  rm -rf "$root"/usr/share/{doc,man,locale,info} \
    "$root/lib/modules/$kernel"/kernel/{sound,drivers/{gpu,media,infiniband,staging,net/wireless,net/ethernet}}
  cp -r "$HERE/root/." "$root"; chmod 440 "$root/etc/sudoers.d/pi"
  as_if_configured "$root"
  who_may_in "$root"
  byte_code "$root"
  install -D -m 644 -t "$root/lib/modules/$kernel/extra" parts/modules/*.ko
  depmod -b "$root" "$kernel"
  initrd "$root" "$kernel"
  mv "$root/boot/vmlinuz-$kernel" parts/vmlinuz; rm -f "$root"/boot/* parts/board.ext4
  # A journal, as a Pi has; nothing is left to be initialised behind the back of a measurement.
  mke2fs -q -t ext4 -m 0 -J size=32 -E assume_storage_prezeroed=1 -d "$root" parts/board.ext4 "$SIZE" >/dev/null
  mv parts/vmlinuz parts/initrd.gz .; mv parts/board.ext4 board.ext4; touch board.ext4
  rm -rf "$root" parts/initrd
}

as_if_configured() { # as_if_configured ROOT: what the packages' own scripts would have done
  local root=$1 f unit
  mkdir -p "$root"/{opt,srv,mnt,media,home} "$root"/usr/local/{bin,lib,sbin,share}
  cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
  cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
  systemd-sysusers --root="$root" 2>/dev/null || true
  grep -q '^pi:' "$root/etc/passwd" || die "no user pi"
  sed -i 's#^root:[^:]*:#root:x:#' "$root/etc/passwd"
  awk -F: '{print $1 ":*:19000:0:99999:7:::"}' "$root/etc/passwd" > "$root/etc/shadow"; chmod 640 "$root/etc/shadow"
  ln -sf mawk "$root/usr/bin/awk"; : > "$root/etc/machine-id"
  for f in auth account session session-noninteractive password; do
    echo "${f%-noninteractive} required pam_permit.so" > "$root/etc/pam.d/common-$f"
  done
  for unit in "${NOT_NEEDED[@]}"; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
  systemctl --root="$root" enable systemd-networkd board-sensors >/dev/null 2>&1
  ln -sf /lib/systemd/system/ssh.service "$root/etc/systemd/system/multi-user.target.wants/ssh.service"
}

who_may_in() { # who_may_in ROOT: root and pi with the key, and the board's own key
  local root=$1 home
  mkdir -p "$root/run/sshd" "$root/home/pi"
  install -m 600 parts/host_ed25519 "$root/etc/ssh/ssh_host_ed25519_key"
  install -m 644 host_ed25519.pub "$root/etc/ssh/ssh_host_ed25519_key.pub"
  for home in "$root/root" "$root/home/pi"; do
    install -d -m 700 "$home/.ssh"; install -m 600 id_board.pub "$home/.ssh/authorized_keys"
  done
  chown -R 1000:1000 "$root/home/pi"
}

byte_code() { # byte_code ROOT: where this machine's Python is the board's; else the first imports there are slow
  local root=$1 found
  found=$(basename "$(echo "$root"/usr/lib/python3.?*)")
  [ "$found" = "python$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" ] || return 0
  python3 -m compileall -qq -j 0 -s "$root" -p / "$root/usr/lib/$found" "$root/usr/lib/python3" || true
}

initrd() { # initrd ROOT KERNEL: busybox and the modules of the disk
  local m f
  rm -rf parts/initrd; mkdir -p parts/initrd/{bin,dev,proc,sys,mnt,m}
  cp "$1/bin/busybox" parts/initrd/bin/; install -m 755 "$HERE/init" parts/initrd/init
  for m in virtio_pci virtio_mmio virtio_blk virtio_net virtio_rng crc32c_generic ext4; do
    modprobe -d "$1" -S "$2" --show-depends "$m"
  done | awk '/^insmod/ && !seen[$2]++ {print $2}' > parts/order
  while read -r f; do cp "$f" parts/initrd/m/; basename "$f"; done < parts/order > parts/initrd/m/order
  (cd parts/initrd; find . | cpio -o -H newc --quiet | gzip -1) > parts/initrd.gz
}

# ---------------------------------------------------------------------------------------------------------- all of it
case $BOARD in *[[:space:]]*) die "EDGE_BOARD must not contain spaces: $BOARD";; esac
[ "$(id -u)" = 0 ] || die "must run as root, for the image's files belong to root" "try: sudo make board"
command -v apt-get >/dev/null || die "needs Debian 12's packages, and there is no apt-get here"
umask 022
mkdir -p "$BOARD/parts"; BOARD=$(cd "$BOARD" && pwd)
cd "$BOARD"
exec 9> parts/lock; flock 9
{ digest build.sh init root; echo "$SIZE"; } | remember parts/recipe
host_packages
root_tar
modules
keys
device_tree
image
stage "ready: $BOARD"
