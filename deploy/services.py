"""Writes what follows from the table of services (`penstock.contracts.services`) into files that
cannot import it: the lines between `begin NAME` and `end NAME` of each.

`make gen` writes them; `make check` compares. Around those lines a file is written by hand: what one
service alone is told stands in docker-compose.yml, or in an overlay, as `x-<container>:
&<container>`, a mapping of environment variables that its block takes up.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from textwrap import indent

from penstock.contracts.export import written
from penstock.contracts.services import PLATFORM, SERVICES, ServiceDefinition

ROOT = Path(__file__).resolve().parents[1]
TABLE = "libs/contracts/penstock/contracts/services.py"
VAR = "/var/lib/penstock"
COMMENT = "(?:#|--|<!--)"
Section = Callable[[str], Iterable[str]]
"""Lines of one section, by the text of the file that it stands in."""


# -- docker-compose.yml ----------------------------------------------------------------------------


def peers(_: str) -> list[str]:
    return [f"PENSTOCK_PEERS__{one.name.upper()}: {one.container}:{one.port}" for one in PLATFORM.values()]


def blocks(text: str) -> list[str]:
    return [line for one in PLATFORM.values() for line in (*block(one, environment(text, one)), "")][:-1]


def block(service: ServiceDefinition, told: str) -> list[str]:
    return [
        f"{service.container}:",
        "  <<: *penstock",
        f"  image: penstock/{service.container}:${{PENSTOCK_VERSION:-latest}}",
        f"  build: {{context: ., dockerfile: deploy/Dockerfile, args: {{{arguments(service)}}}}}",
        f"  mem_limit: ${{{service.name.upper()}_MEMORY:-{service.memory}}}",
        "  environment:",
        f"    <<: {told}",
        *(f"    PENSTOCK_{service.name.upper()}__{setting}" for setting in settings(service)),
        *(f"    PENSTOCK_KAFKA__{setting}" for setting in kafka_user(service)),
        "  volumes:",
        *(f"    - {volume}" for volume in mounts(service)),
        f"  secrets: [{', '.join(passwords(service))}]",
        *(["  networks: [penstock, serving]"] if service.triton else []),
        "  depends_on:",
        *(f"    {condition}" for condition in starts_after(service)),
    ]


def arguments(service: ServiceDefinition) -> str:
    """Build arguments of its image."""
    shared = f", PACKAGES: {service.packages}" if service.packages != service.name else ""
    extras = f', EXTRAS: "[{",".join(service.extras)}]"' if service.extras else ""
    return f"SERVICE: {service.name}{shared}{extras}"


def environment(text: str, service: ServiceDefinition) -> str:
    """Aliases of what all are told and of what the service alone is told in this file."""
    alone = f"x-{service.container}: &{service.container}"
    return f"[*environment, *{service.container}]" if f"\n{alone}\n" in text else "*environment"


def settings(service: ServiceDefinition) -> list[str]:
    database = [
        f"DATABASE: postgresql+psycopg://{service.name}@postgres:5432/{service.name}",
        f"DATABASE_PASSWORD_FILE: /run/secrets/postgres_{service.name}_password",
    ]
    return ["HOST: 0.0.0.0", *(database if service.database else [])]


def kafka_user(service: ServiceDefinition) -> list[str]:
    password = f"/run/secrets/kafka_{service.name}_password"
    return [f"SASL_USERNAME: {service.name}", f"SASL_PASSWORD_FILE: {password}"]


def kafka_passwords(_: str) -> list[str]:
    return [f"- {name}" for name in all_passwords() if name.startswith("kafka_")]


def mounts(service: ServiceDefinition) -> list[str]:
    trains = service.keys in ("trainer", "feature_store")
    signing = [f"{key_volume(service)}:{VAR}/private-keys"] if service.keys != "verify" else []
    writes = "trust-training" if trains else "trust" if signing else ""
    only_reads = set(service.artifacts.values()) == {"read"}
    return [
        *([f"{service.container}:{VAR}/{service.name}"] if service.files else []),
        *signing,
        *(
            f"{volume}:{VAR}/{folder}{'' if volume == writes else ':ro'}"
            for volume, folder in (("trust", "keys"), ("trust-training", "keys-training"))
        ),
        *([f"artifacts:{VAR}/artifacts{':ro' if only_reads else ''}"] if service.artifacts else []),
        *([f"door:{VAR}/envoy", f"triton:{VAR}/triton"] if service.triton else []),
        *([f"sites:{VAR}/sites{':ro' if service.triton else ''}"] if service.triton or service.sites else []),
        f"traces:{VAR}/traces",
    ]


def key_volume(service: ServiceDefinition) -> str:
    return f"{service.keys.replace('_', '-')}-key"


def passwords(service: ServiceDefinition) -> list[str]:
    needed = {"kafka": True, "postgres": service.database, "redis": service.online_store}
    return [f"{store}_{service.name}_password" for store, needs in needed.items() if needs]


def starts_after(service: ServiceDefinition) -> list[str]:
    further = {
        "redis: {condition: service_healthy}": service.online_store,
        "prepare: {condition: service_completed_successfully}": service.triton,
    }
    first = "*stores-first" if service.database else "*kafka-first"
    return [f"<<: {first}", *(condition for condition, needs in further.items() if needs)]


def volumes(_: str) -> list[str]:
    signing = [f"{key_volume(one)}:" for one in PLATFORM.values() if one.keys != "verify"]
    return signing + [f"{one.container}:" for one in PLATFORM.values() if one.files]


def all_passwords() -> list[str]:
    return [name for one in PLATFORM.values() for name in passwords(one)]


def secrets(_: str) -> list[str]:
    return [f"{name}: {{file: ./deploy/compose/secrets/{name}}}" for name in all_passwords()]


def database_passwords(_: str) -> list[str]:
    return [f"- {name}" for name in all_passwords() if name.startswith("postgres_")]


# -- overlays --------------------------------------------------------------------------------------


def environments(text: str) -> list[str]:
    return [
        f"{one.container}: {{environment: {{<<: {environment(text, one)}}}}}" for one in PLATFORM.values()
    ]


def replicas(text: str) -> list[str]:
    found = []
    for line, one in zip(environments(text), PLATFORM.values(), strict=True):
        named = f"<<: {environment(text, one)}, PENSTOCK_{one.name.upper()}__REPLICA: hostname"
        several = [
            f"{one.container}:",
            f"  deploy: {{replicas: {one.replicas}}}",
            f"  environment: {{{named}}}",
        ]
        found += several if one.replicas > 1 else [line]
    return found


def with_artifacts(_: str) -> list[str]:
    return [
        f"{one.container}: {{<<: *there, secrets: [{{source: {bucket_key(one)}, target: s3_credentials}}]}}"
        for one in PLATFORM.values()
        if one.artifacts
    ]


def bucket_keys(_: str) -> list[str]:
    keys = [bucket_key(one) for one in PLATFORM.values() if one.artifacts]
    return [f"{key}: {{file: ./deploy/compose/secrets/{key}}}" for key in keys]


def bucket_key(service: ServiceDefinition) -> str:
    return f"s3_{service.name}_credentials"


def bucket_policies(_: str) -> list[str]:
    allowing = {"reads": "read write delete", "writes": "write delete", "deletes": "delete"}
    found = []
    for one in (row for row in PLATFORM.values() if row.artifacts):
        said = (
            f'{verb}="{" ".join(folder for folder, right in one.artifacts.items() if right in rights)}"'
            for verb, rights in allowing.items()
        )
        found.append(f"{one.container}) {' '.join(said)} ;;")
    return found


# -- others ----------------------------------------------------------------------------------------


def memory(_: str) -> list[str]:
    return [f"# {one.name.upper()}_MEMORY={one.memory}" for one in PLATFORM.values()]


def links(_: str) -> list[str]:
    found = [f"[{name}](services/{name})," for name in SERVICES]
    return ["Services:", *found[:-1], found[-1].replace(",", ".")]


def restart(_: str) -> list[str]:
    return [f"docker compose restart {' '.join(one.container for one in PLATFORM.values() if one.database)}"]


def of_another_kafka(_: str) -> list[str]:
    return [f"{one.container}: *there" for one in PLATFORM.values()]


def databases(_: str) -> list[str]:
    return [f"own {one.name}" for one in PLATFORM.values() if one.database]


def made_passwords(_: str) -> list[str]:
    return [f"password {name}" for name in all_passwords()]


def paths(_: str) -> list[str]:
    return [f'"services/{name}",' for name in SERVICES]


def packages(_: str) -> list[str]:
    return [f'"penstock_{name}",' for name in SERVICES]


def without_torch(_: str) -> list[str]:
    return [f'"penstock_{one.name}",' for one in SERVICES.values() if not one.torch]


FILES: dict[str, dict[str, Section]] = {
    "docker-compose.yml": {
        "peers": peers,
        "database-passwords": database_passwords,
        "users": kafka_passwords,
        "services": blocks,
        "volumes": volumes,
        "secrets": secrets,
    },
    "deploy/compose/cluster.yaml": {"services": replicas},
    "deploy/compose/observability.yaml": {"services": environments},
    "deploy/compose/s3.yaml": {"services": with_artifacts, "keys": bucket_keys},
    "deploy/compose/s3/policy.sh": {"policies": bucket_policies},
    "deploy/compose/postgres/roles.sh": {"databases": databases},
    "deploy/compose/secrets.sh": {"passwords": made_passwords},
    ".env": {"memory": memory},
    "README.md": {"services": links},
    "docs/operations.md": {"databases": restart, "services": of_another_kafka},
    "pyproject.toml": {
        "paths": paths,
        "packages": packages,
        "independent": packages,
        "forbidden": packages,
        "without-torch": without_torch,
    },
}


def filled(text: str, sections: Mapping[str, Section]) -> str:
    """The text with each section's lines anew. Raises LookupError for a section that it lacks."""
    for name, lines in sections.items():
        marked = re.compile(
            rf"^( *)({COMMENT} begin {name}\b.*\n)(?:.*\n)*?(?=\1{COMMENT} end {name}\b)", re.MULTILINE
        )
        found = list(marked.finditer(text))
        if len(found) != 1:
            raise LookupError(f"needs its lines `begin {name}` and `end {name}`, once")
        new = indent("".join(f"{line}\n" for line in lines(text)), found[0][1])
        text = text[: found[0].end(2)] + new + text[found[0].end() :]
    return text


def main(arguments: list[str]) -> int:
    folders = {path.parent.name for path in ROOT.glob("services/*/pyproject.toml")}
    if folders != SERVICES.keys():
        unmatched = ", ".join(sorted(folders ^ SERVICES.keys()))
        sys.stderr.write(f"{unmatched}: a folder in services/ and a row in {TABLE} belong together\n")
        return 1
    files = {}
    for name, sections in FILES.items():
        try:
            files[ROOT / name] = filled((ROOT / name).read_text(), sections)
        except LookupError as error:
            sys.stderr.write(f"{name}: {error}\n")
            return 1
    return written(files, check="--check" in arguments, of=ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
