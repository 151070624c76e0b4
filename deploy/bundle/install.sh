#!/usr/bin/env bash
# Check every file of this bundle and install it, without a network, into a new folder: install.sh [FOLDER]
set -euo pipefail
caller=$PWD
cd "$(dirname "$(realpath "$0")")"
target=$(cd "$caller" && realpath --canonicalize-missing "${1:-falqon}")
python=${PYTHON:-python3}

fail() {
  echo "install.sh: $1" >&2
  exit 1
}

command -v "$python" >/dev/null || fail "$python is not on PATH. Name the Python to use: PYTHON=/usr/bin/python3 ./install.sh"
needed=$(cat PLATFORM)
found=$("$python" -c 'import sys, sysconfig; print(sysconfig.get_platform(), "python%d.%d" % sys.version_info[:2])')
[ "$found" = "$needed" ] || fail "this bundle is for $needed, and $python is $found. Name another with PYTHON=…, or run \`make bundle\` on a machine like this one."
[ ! -e "$target" ] || fail "$target exists already. Name a new folder, or remove that one."
sha256sum --check --quiet --strict SHA256SUMS || fail "the files named above are damaged or missing. Nothing was installed; copy the bundle again."

# What is left of an installation that ended early would pass for a whole one.
trap '[ $? = 0 ] || rm -rf "$target"' EXIT
"$python" -m venv "$target"
# By name, because the folder may still hold wheels of an earlier bundle.
mapfile -t wheels < <(cut --delimiter ' ' --fields 3 SHA256SUMS | grep '^wheels/')
PIP_CONFIG_FILE=/dev/null "$target/bin/pip" install --isolated --quiet --disable-pip-version-check --no-index "${wheels[@]}"
"$target/bin/python" -c 'import torch; print("torch", torch.__version__, "for", f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs")'
echo "Installed after $SECONDS s. Start it: $target/bin/falqon up"
