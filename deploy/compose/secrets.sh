#!/bin/sh
# Makes the passwords of the compose stack that are missing: one file each, in deploy/compose/secrets, which git ignores.
# The folder is closed to other users. The files are not: a container reads its own by a mount, as a user of its own.
set -eu
folder=$(dirname "$0")/secrets
mkdir -p "$folder"
chmod 700 "$folder"
for name in postgres_password redis_password grafana_admin_password; do
  [ -s "$folder/$name" ] && continue
  rm -f "$folder/.$name"  # half-written by one that was ended
  head -c 24 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' > "$folder/.$name"
  chmod 444 "$folder/.$name"
  mv "$folder/.$name" "$folder/$name"
  echo "made $folder/$name"
done
