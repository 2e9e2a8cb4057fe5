#!/bin/sh
# Makes the passwords of the compose stack that are missing: one file each, in deploy/compose/secrets, which git ignores.
# The folder is closed to other users. The files are not: a container reads its own by a mount, as a user of its own.
set -eu
folder=$(dirname "$0")/secrets
mkdir -p "$folder"
chmod 700 "$folder"

password() {
  [ -s "$folder/$1" ] && return
  rm -f "$folder/.$1"  # half-written by one that was ended
  head -c 24 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' > "$folder/.$1"
  chmod 444 "$folder/.$1"
  mv "$folder/.$1" "$folder/$1"
  echo "made $folder/$1"
}

password postgres_password  # of its administrator, whom no service is
password grafana_admin_password
password kafka_broker_password  # and of who makes the other users
password kafka_admin_password
password kafka_publisher_password
password ray_token  # of a Ray cluster's members; the key that signs their certificates follows from it
# begin passwords: made by `make gen` from contracts/services.py
password kafka_ingest_password
password kafka_feature_store_password
password postgres_feature_store_password
password redis_feature_store_password
password kafka_trainer_password
password postgres_trainer_password
password kafka_tuner_password
password postgres_tuner_password
password kafka_model_registry_password
password postgres_model_registry_password
password kafka_ethics_audit_password
password postgres_ethics_audit_password
password kafka_inference_password
password postgres_inference_password
password kafka_edge_gateway_password
password postgres_edge_gateway_password
# end passwords
