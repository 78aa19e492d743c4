#!/bin/bash
# Installs what the tests need on Debian 12, and nothing when all of it is there. Needs root.
set -euo pipefail
packages=(
  bubblewrap crun runc uidmap           # the peers of the benchmarks; newuidmap for rootless sandboxes
  containerd docker.io                  # engines that run their containers on brig-oci
  containernetworking-plugins           # the network of containerd's pods
  podman catatonit                      # another engine, and the init of its containers and pods
  busybox-static                        # root file systems for the tests
  golang-github-containers-common       # the seccomp profile that Podman ships
  erofs-utils fsverity                  # the judges of images and their digests
  umoci                                 # the judge of the tree that layers give
  e2fsprogs                             # the place on disk to write over a root
  xfsprogs btrfs-progs                  # file systems that a store may lie on
  openssl                               # makes the keys and signatures that images are checked with
  libseccomp-dev pkg-config gcc libc6-dev # the judge of the filter compiler
  curl git make nodejs perl python3 strace xz-utils # real programs that must run unchanged
  python3-venv nginx-light postgresql-15 sqlite3 # and those that run in images
  docker-registry skopeo buildah debootstrap # a registry, and images built by others
  qemu-system-x86 kmod cpio          # guests with other kernels
  apparmor                           # the parser of profiles, which judges what is written for it
  shellcheck
)
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "setup: these packages are missing: ${missing[*]}; run scripts/setup.sh as root" >&2
  exit 1
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
if [ ! -e /usr/sbin/policy-rc.d ]; then # what is installed must not begin to serve: docker-registry, an engine
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
