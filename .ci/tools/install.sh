#!/usr/bin/env bash
# Makes sure that everything the tests call is there: Go as go.mod wants it, a C compiler for the race detector, and the
# stock tools that the tests use as peers. What is missing is installed with apt-get, once and without a question, as
# root or through a sudo that asks no password; otherwise the one line to run is printed and the exit status is 1.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

# Debian keeps veritysetup where only root's PATH looks.
PATH=$PATH:/usr/sbin:/sbin

fail() {
  printf 'make test: %s\n' "$*" >&2
  exit 1
}

# command, then the Debian packages that bring it
tools='
xorriso     xorriso
minisign    minisign
veritysetup cryptsetup-bin
gpg         gnupg
gpgv        gpgv
bsdtar      libarchive-tools
isoinfo     genisoimage
genisoimage genisoimage
openssl     openssl
dmsetup     dmsetup
strace      strace
sha256sum   coreutils
dd          coreutils
script      bsdutils
prlimit     util-linux
xz          xz-utils
zstd        zstd
cpio        cpio
python3     python3
dpkg-deb    dpkg
apt-cache   apt
kmod        kmod
modinfo     kmod
modprobe    kmod
depmod      kmod
qemu-system-x86_64 qemu-system-x86
qemu-img    qemu-utils qemu-block-extra
growisofs   growisofs
dvd+rw-mediainfo dvd+rw-tools
wodim       wodim
cdrskin     cdrskin
tgtd        tgt
tgtadm      tgt
tgtimg      tgt
iscsi-inq   libiscsi-bin
iscsi-ls    libiscsi-bin
iscsi-readcapacity16 libiscsi-bin
fsck.fat    dosfstools
mkfs.fat    dosfstools
mcopy       mtools
mkswap      util-linux
mkfs.ext4   e2fsprogs
mkfs.exfat  exfatprogs
fsck.exfat  exfatprogs
dump.exfat  exfatprogs
fls         sleuthkit
icat        sleuthkit
e2fsck      e2fsprogs
sgdisk      gdisk
sfdisk      fdisk
blkid       util-linux
lsusb       usbutils
umockdev-run umockdev
sbsign      sbsigntool
sbverify    sbsigntool
'

have() { command -v "$1" >/dev/null 2>&1; }

# QEMU speaks iSCSI with a module of its own package, which is no command. Nobody listens on port 1.
have_qemu_iscsi() {
  ! qemu-img info iscsi://127.0.0.1:1/none/1 2>&1 | grep -qi 'unknown protocol'
}

# UEFI's firmware for guests is files.
have_ovmf() {
  [ -e /usr/share/OVMF/OVMF_CODE_4M.secboot.fd ]
}

# A compiler without the C library's headers can't build the race detector's runtime.
have_cc() {
  local cc
  cc=$(go env CC) && printf '#include <stdlib.h>\n' | $cc -E -x c - >/dev/null 2>&1
}

missing() {
  local tool packages
  while read -r tool packages; do
    [ -z "$tool" ] || have "$tool" || printf '%s %s\n' "$tool" "$packages"
  done <<<"$tools"
  have_cc || echo 'cc gcc libc6-dev'
  have_ovmf || echo 'OVMF ovmf'
  have_qemu_iscsi || echo 'qemu-iscsi qemu-block-extra'
}

wanted=$(sed -n 's/^go //p' go.mod)
have go || fail "go is missing: install Go $wanted or newer"
found=$(GOTOOLCHAIN=local go env GOVERSION | grep -oE '[0-9]+(\.[0-9]+)+' | head -n 1)
if ! printf '%s\n' "$wanted" "$found" | sort -V -C; then
  case $(go env GOTOOLCHAIN) in
    local*) fail "go $found is too old: install Go $wanted or newer" ;;
  esac
fi

lacking=$(missing)
[ -n "$lacking" ] || exit 0
names=$(cut -d' ' -f1 <<<"$lacking" | xargs)
packages=$(cut -d' ' -f2- <<<"$lacking" | xargs -n 1 | sort -u | xargs)

have apt-get || fail "missing: $names (Debian's packages: $packages); there is no apt-get here to install them"
if [ "$(id -u)" = 0 ]; then
  as_root=()
elif have sudo && sudo -n true >/dev/null 2>&1; then
  as_root=(sudo -n)
else
  printf 'make test: missing: %s; run this as root, then make test again:\n' "$names" >&2
  printf 'apt-get update && apt-get install -y --no-install-recommends %s\n' "$packages" >&2
  exit 1
fi

echo "make test: installing $packages (missing: $names)"
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null
}
apt update || fail 'apt-get update failed'
read -ra list <<<"$packages"
apt install -y --no-install-recommends "${list[@]}" || fail "apt-get could not install $packages"

hash -r
lacking=$(missing)
[ -z "$lacking" ] || fail "still missing after apt-get: $(cut -d' ' -f1 <<<"$lacking" | xargs)"
