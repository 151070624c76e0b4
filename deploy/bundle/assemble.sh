#!/usr/bin/env bash
# Put wheels, a base model and the demo's data into a folder and a .tar, with their sums: the last step of `make bundle`.
# assemble.sh WHEELS MODEL OUTPUT; PYTHON names the Python that the wheels are for.
set -euo pipefail
ours=$(dirname "$(realpath "$0")")
wheels=$(realpath "$1") model=$(realpath "$2") output=$3

falqon=("$wheels"/falqon-*.whl)
if [ ${#falqon[@]} != 1 ] || [ ! -f "${falqon[0]}" ]; then
  echo "$wheels holds ${#falqon[@]} wheels of falqon (${falqon[*]}); one is needed." >&2
  exit 1
fi
version=$(basename "${falqon[0]}" | cut -d - -f 2)
platform=$("${PYTHON:-python3}" -c 'import sys, sysconfig; print(sysconfig.get_platform(), "python%d.%d" % sys.version_info[:2])')
name=falqon-$version-${platform/ /-}

mkdir -p "$output"
cd "$output"
rm -rf "$name" "$name.tar"
mkdir -p "$name/demo" "$name/model"
cp -r "$wheels" "$name/wheels"
cp -r "$model" "$name/model/"
cp "$ours/../../demo/support_desk.jsonl" "$name/demo/"
cp "$ours/install.sh" "$ours/README.md" "$ours/../../LICENSE" "$name/"
echo "$platform" >"$name/PLATFORM"
(cd "$name" && find . -type f ! -name SHA256SUMS -printf '%P\0' | sort -z | xargs -0 sha256sum >SHA256SUMS)

tar --create --file "$name.tar" --sort name --owner 0 --group 0 "$name"
du --human-readable --apparent-size "$PWD/$name.tar"
sha256sum "$name.tar"
