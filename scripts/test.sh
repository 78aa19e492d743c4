#!/bin/bash
# Installs what the tests need and proves everything: on a fresh Debian 12 with Go, as root, this is all there is to do.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
exec make ci
