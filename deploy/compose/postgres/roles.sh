#!/bin/sh
# Gives each service a user of its own in PostgreSQL, which owns the service's databases, and lets no other service into them. Runs at each
# `docker compose up` and changes nothing where all is so already: a volume that knew one user for all services is brought to this, too.
set -eu
PGPASSWORD=$(cat /run/secrets/postgres_password)
export PGPASSWORD

sql() {
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 "$@"
}

own() {  # SERVICE [DATABASE]
  PASSWORD_FILE=/run/secrets/postgres_$1_password sql --set role="$1" --set database="${2:-$1}" <<'SQL'
\set password `cat "$PASSWORD_FILE"`
SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
ALTER ROLE :"role" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'password';
SELECT format('CREATE DATABASE %I', :'database') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
ALTER DATABASE :"database" OWNER TO :"role";
\connect :"database"
ALTER SCHEMA public OWNER TO :"role";
-- Sequences follow their tables.
SELECT format('ALTER TABLE %s OWNER TO %I', oid::regclass, :'role') FROM pg_class
  WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND relowner <> :'role'::regrole \gexec
SQL
}

# begin databases: made by `make gen` from contracts/services.py
own feature_store
own trainer
own tuner
own model_registry
own ethics_audit
own inference
own edge_gateway
# end databases
own trainer mlflow

sql <<'SQL'
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', datname) FROM pg_database \gexec
SQL
