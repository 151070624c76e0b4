#!/usr/bin/env bash
# The bundle on a machine without a network: install, serve, and the commands of its README. `make bundle-check` runs it.
set -euo pipefail
archive=$(realpath "$1")
if [ "${2-}" != without-network ]; then
  unshare --map-root-user --net true || { echo "bundle-check did NOT run: unshare --map-root-user --net is not permitted here." >&2; exit 2; }
  exec unshare --map-root-user --net "$0" "$archive" without-network
fi

ip link set lo up
[ -z "$(ip route)" ] || { echo "There is a route: $(ip route)" >&2; exit 1; }
folder=$(mktemp -d)
trap 'kill %1 2>/dev/null && wait %1; rm -rf "$folder"' EXIT
python=$(command -v "${PYTHON:-python3}")
say() { echo "$1 after $SECONDS s"; }

tar --extract --file "$archive" --directory "$folder"
cd "$folder"/falqon-*
say "unpacked"
# With the lease of `falqon up`, 15 s, a machine that is busy with other work loses attempts, and the check would measure that.
clean=(env -i "HOME=$folder" "PATH=$folder/falqon/bin:/usr/bin:/bin" "FALQON_DATA_DIR=$folder/data" "FALQON_LEASE=PT10M")
"${clean[@]}" "PYTHON=$python" ./install.sh "$folder/falqon"
say "installed"

port=$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
"${clean[@]}" falqon up --port "$port" >"$folder/up.log" 2>&1 &
until "${clean[@]}" falqon status >/dev/null 2>&1; do
  kill -0 %1 || { cat "$folder/up.log" >&2; exit 1; }
  sleep 1
done
say "the service is up"

commands=$(sed -n '/^```sh$/,/^```$/{/^```/!p}' README.md)
[ -n "$commands" ]
"${clean[@]}" bash -euo pipefail -c "$commands"
say "trained and answered"
