#!/bin/sh
# Prints the policy of a service's key to the bucket: the folders that the service reads, writes and deletes in, and nothing else. All may list
# the names, without which nobody tells what is gone from what is refused.
#
#   deploy/compose/s3/policy.sh SERVICE [s3://BUCKET/PREFIX]
set -eu
root=${2:-s3://penstock/artifacts}
root=${root#s3://}
root=${root%/}

case ${1:-} in
  # begin policies: made by `make gen` from contracts/services.py
  feature-store) reads="training-sets" writes="training-sets" deletes="training-sets" ;;
  trainer) reads="training-sets imports packages" writes="imports packages" deletes="imports" ;;
  tuner) reads="training-sets" writes="" deletes="" ;;
  model-registry) reads="packages signatures audits" writes="packages signatures" deletes="packages signatures" ;;
  ethics-audit) reads="training-sets packages signatures audits" writes="audits" deletes="" ;;
  inference) reads="packages signatures" writes="" deletes="" ;;
  edge-gateway) reads="packages signatures" writes="" deletes="" ;;
  # end policies
  *)
    echo "policy: say whose, as docker-compose.yml names it: $0 trainer" >&2
    exit 2
    ;;
esac

allow() {  # ACTIONS FOLDER…
  [ $# -gt 1 ] || return 0
  actions=$1
  shift
  resources=$(printf "\"arn:aws:s3:::$root/%s/*\", " "$@")
  printf ',\n  {"Effect": "Allow", "Action": [%s], "Resource": [%s]}' "$actions" "${resources%, }"
}

printf '{"Version": "2012-10-17", "Statement": [\n'
printf '  {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::%s"]}' "${root%%/*}"
# shellcheck disable=SC2086  several folders
{
  allow '"s3:GetObject"' $reads
  allow '"s3:PutObject", "s3:AbortMultipartUpload"' $writes
  allow '"s3:DeleteObject"' $deletes
}
printf '\n]}\n'
