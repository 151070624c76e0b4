#!/usr/bin/env bash
# A wheel as a user installs it, in an environment of its own: serve, fine-tune, ask. `make wheel-check` runs it.
set -euo pipefail
wheel=$(realpath "$1")
records=$(realpath demo/support_desk.jsonl)
folder=$(mktemp -d)
trap 'kill %1 2>/dev/null && wait %1; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
export PATH="$folder/venv/bin:/usr/bin:/bin" HOME="$folder"

pip install --quiet --disable-pip-version-check "$wheel[worker]"
echo "installed after $SECONDS s"

port=$(python -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
falqon up --port "$port" >up.log 2>&1 &
until falqon status >/dev/null 2>&1; do
  kill -0 %1 || { cat up.log >&2; exit 1; }
  sleep 1
done
echo "the service is up after $SECONDS s"

falqon jobs create --model falqon-tiny --file "$records" --suffix first --yes --watch
model=$(falqon jobs list --json | python -c 'import json, sys; print(json.load(sys.stdin)["data"][0]["fine_tuned_model"])')
echo "trained after $SECONDS s"

falqon chat "$model" --once "How many days do I have to send a lamp back?"
echo "answered after $SECONDS s"
