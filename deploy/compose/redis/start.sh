#!/bin/sh
# Starts Redis with one user, the feature store's, who may do what it does there and no more. The password goes in as a digest, by a file that
# only lives in memory: on the command line every process could read it. Further options of Redis may follow.
set -eu
digest=$(printf %s "$(cat /run/secrets/redis_feature_store_password)" | sha256sum | cut -c1-64)
{
  printf '%s\n' 'appendonly yes' 'maxmemory-policy noeviction' 'protected-mode no' 'user default off'
  # Keys are Feast's and the positions; what is told besides rows: what an erasure needs to have the files written anew.
  printf 'user feature_store on #%s %s %s %s\n' "$digest" '~*__entity* ~penstock:positions:*' \
    '+hset +hget +hmget +hgetall +hkeys +hdel +scan' \
    '+info +config|get +bgrewriteaof +bgsave +ping +select +client|setname'
} > /run/redis/redis.conf
exec docker-entrypoint.sh redis-server /run/redis/redis.conf "$@"
