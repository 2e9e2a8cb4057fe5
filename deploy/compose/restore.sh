#!/bin/sh
# Makes the volumes and passwords of a compose stack that is not there from a backup, and leaves it to be started.
#
#   deploy/compose/restore.sh DIRECTORY && docker compose up -d --wait
#
# Changes nothing that exists: a stack with volumes is refused, and so is another password. What fails half-way is cleared away.
set -eu
umask 077

fail() {
  echo "restore: $1" >&2
  exit "${2:-1}"
}

[ $# -eq 1 ] || fail "say where from: $0 DIRECTORY" 2
from=$(cd "$1" && pwd)
[ -f "$from/SHA256SUMS" ] || fail "$from holds no whole backup: SHA256SUMS, which is written last, is missing"
cd "$(dirname "$0")/../.."

project=$(docker compose config | sed -n 's/^name: //p' | tr -d '"')
image=$(docker compose config --images prepare)
of_project="label=com.docker.compose.project=$project"
names=$(sed -n 's/^[0-9a-f]\{64\}  \(.*\)\.tar\.gz$/\1/p' "$from/SHA256SUMS")

there=$(docker volume ls --quiet --filter "$of_project")
[ -z "$there" ] || fail "the stack $project has data here. If it may go: docker compose down --volumes"
for name in $names; do
  docker compose config --volumes | grep -q -x -e "$name" ||
    fail "this stack has no volume $name. Name the files that the backup's had in COMPOSE_FILE; $from/compose.yaml is what they came to"
done
docker run --rm --pull never --network none --user 0 --volume "$from:/backup:ro" --workdir /backup "$image" sha256sum --check --quiet SHA256SUMS ||
  fail "these files are not those that were written: see above"

secrets=deploy/compose/secrets
mkdir -p "$secrets"
for name in $(ls "$from/secrets"); do
  if [ ! -e "$secrets/$name" ]; then
    cp "$from/secrets/$name" "$secrets/$name"
    chmod 444 "$secrets/$name"
  elif ! cmp -s "$from/secrets/$name" "$secrets/$name"; then
    fail "$secrets/$name is another than the backup's, with which the databases open. If no stack uses it, remove it"
  fi
done

clear_away() {
  echo "restore: it failed; what it made is removed" >&2
  docker compose --progress quiet down --volumes
}
trap clear_away EXIT
trap 'exit 130' HUP INT TERM
docker compose --progress quiet create --no-build
for name in $names; do
  volume=$(docker volume ls --quiet --filter "$of_project" --filter "label=com.docker.compose.volume=$name")
  [ -n "$volume" ] || fail "docker compose made no volume $name"
  docker run --rm --pull never --interactive --network none --user 0 --volume "$volume:/volume" "$image" \
    tar --extract --gzip --numeric-owner --preserve-permissions --directory /volume < "$from/$name.tar.gz"
done
trap - EXIT
echo "$project: $(echo "$names" | wc -l) volumes restored. Start it: docker compose up -d --wait"
