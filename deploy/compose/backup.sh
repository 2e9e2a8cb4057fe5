#!/bin/sh
# Writes all that the compose stack keeps to DIRECTORY, which it makes: an archive of each volume, the passwords, and the digest of each file.
#
#   deploy/compose/backup.sh DIRECTORY
#
# All of it is of one moment: whoever writes is stopped, Kafka and the databases with them, and started again when the copies are made.
# Envoy and Triton go on answering; what they answered meanwhile lies in the door's log and is published afterwards.
# Left out are spans (traces) and Triton's repository (triton), which inference writes anew.
set -eu
umask 077

fail() {
  echo "backup: $1" >&2
  exit "${2:-1}"
}

[ $# -eq 1 ] || fail "say where to: $0 DIRECTORY" 2
mkdir -p "$1"
to=$(cd "$1" && pwd)
[ -z "$(ls -A "$to")" ] || fail "$to is not empty. Name a new directory"
chmod 700 "$to"
cd "$(dirname "$0")/../.."

project=$(docker compose config | sed -n 's/^name: //p' | tr -d '"')
image=$(docker compose config --images prepare)
of_project="label=com.docker.compose.project=$project"
volumes=$(docker volume ls --filter "$of_project" --format '{{.Label "com.docker.compose.volume"}}' | grep -v -x -e traces -e triton) ||
  fail "the stack $project has no volumes here. See: docker compose ls --all"
writers=$(docker compose ps --services --status running --status restarting | grep -v -x -e envoy -e triton) || writers=

began=$(date +%s)
start() {
  # shellcheck disable=SC2086  several names
  [ -z "$writers" ] || docker compose --progress quiet start $writers
}
trap start EXIT
trap 'exit 130' HUP INT TERM
# shellcheck disable=SC2086
[ -z "$writers" ] || docker compose --progress quiet stop $writers

mkdir "$to/secrets"
cp deploy/compose/secrets/* "$to/secrets/"
docker compose config > "$to/compose.yaml"
for name in $volumes; do
  volume=$(docker volume ls --quiet --filter "$of_project" --filter "label=com.docker.compose.volume=$name")
  [ -n "$volume" ] || fail "the volume $name of $project is not to be found. See: docker volume ls"
  # tar ends with 1 where a file grew under it, which the door's log may.
  # shellcheck disable=SC2016  said by the container's shell
  docker run --rm --pull never --network none --log-driver none --user 0 --volume "$volume:/volume:ro" "$image" sh -c '
    tar --create --sparse --numeric-owner --use-compress-program "gzip -1" --directory /volume . || { [ $? -eq 1 ] && [ "$0" = door ]; }
    ' "$name" > "$to/$name.tar.gz" || fail "the volume $volume was not copied; $to is no whole backup"
done

trap - EXIT
started=yes
start || started=no
stopped=$(($(date +%s) - began))
docker run --rm --pull never --network none --user 0 --volume "$to:/backup:ro" --workdir /backup "$image" \
  sh -c 'sha256sum -- compose.yaml secrets/* *.tar.gz' > "$to/.SHA256SUMS"
mv "$to/.SHA256SUMS" "$to/SHA256SUMS"
[ "$started" = yes ] || fail "$to is whole, but $project did not start again: docker compose up -d --wait"
echo "$project: $(echo "$volumes" | wc -l) volumes, $(du -sk "$to" | cut -f1) KiB in $to; all but predictions stood still for $stopped s"
echo "It holds personal data and the keys that sign. Keep it where neither is read by others."
