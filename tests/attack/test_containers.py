"""A program of another user of the machine, or one container that was taken over, reaches no more than
the platform's own work needs.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from ipaddress import ip_address, ip_network

import psutil
import pytest
from census import Served

from penstock.contracts.services import PLATFORM
from penstock.testing.compose import SERVICES, ComposeUnderTest
from penstock.testing.containers import docker

pytestmark = pytest.mark.compose

LOCKED = (*SERVICES, "gateway", "envoy", "triton")  # may do nothing that needs a capability
OPEN = {("envoy", "9080/tcp"), ("kafka", "9092/tcp")}
SERVING = [("triton", 8001), ("triton", 8002), ("gateway", 9187), ("gateway", 9188), ("envoy", 9199)]
REACHED = """
import json, socket, sys
def reaches(host, port):
    try:
        socket.create_connection((host, port), 2).close()
    except OSError:
        return False
    return True
print(json.dumps([place for place in json.loads(sys.argv[1]) if reaches(*place)]))
"""
CONNECT = """
import json, pathlib, psycopg, sys
from sqlalchemy import make_url

url, password = make_url(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text().strip()

def connected(database):
    try:
        psycopg.connect(host=url.host, user=url.username, dbname=database, password=password).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""

print(json.dumps({database: connected(database) for database in sys.argv[3:]}))
"""


def addresses(compose: ComposeUnderTest, service: str) -> list[str]:
    networks = compose.inspect(service)["NetworkSettings"]["Networks"]
    return [str(network["IPAddress"]) for network in networks.values()]


def test_the_door_and_kafka_are_published_here_and_nothing_else(compose: ComposeUnderTest) -> None:
    published = {
        (service, port): {binding["HostIp"] for binding in bindings}
        for service in compose.compose("ps", "--services").split()
        for port, bindings in compose.inspect(service)["NetworkSettings"]["Ports"].items()
        if bindings
    }
    assert published == {port: {"127.0.0.1"} for port in OPEN}


def test_no_program_of_this_machine_has_a_way_to_the_networks_inside(compose: ComposeUnderTest) -> None:
    """A container could be reached by its own address, which no published port stands before."""
    here = {
        ip_address(address.address)
        for found in psutil.net_if_addrs().values()
        for address in found
        if address.family == socket.AF_INET
    }
    for network in ("penstock", "serving"):
        name = f"{compose.environment['COMPOSE_PROJECT_NAME']}_{network}"
        (subnet,) = json.loads(docker("network", "inspect", name))[0]["IPAM"]["Config"]
        assert not [address for address in here if address in ip_network(subnet["Subnet"])], network
    for service in {*LOCKED, "postgres", "redis"} - {"envoy"}:
        assert len(addresses(compose, service)) == (2 if service == "inference" else 1)


@pytest.mark.parametrize("service", sorted({*SERVICES} - {"inference"}))
def test_a_service_without_business_there_does_not_reach_triton(
    compose: ComposeUnderTest, service: str
) -> None:
    """By name or address: Triton takes models with code in them."""
    places = [*SERVING]
    places += [(address, port) for name, port in SERVING for address in addresses(compose, name)]
    said = compose.execute(service, "python", "-c", REACHED, json.dumps(places))
    assert json.loads(said) == []


def test_who_may_ask_triton_reaches_no_administration_of_envoy(compose: ComposeUnderTest) -> None:
    places = [("triton", 8001), ("triton", 8000), ("envoy", 9199)]
    assert json.loads(compose.execute("inference", "python", "-c", REACHED, json.dumps(places))) == [
        ["triton", 8001]
    ]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/models/evil/load"),
        ("POST", "/v2/repository/models/census/unload"),
        ("POST", "/v2/repository/index"),
        ("POST", "/drain_listeners"),
        ("POST", "/quitquitquit"),
    ],
)
def test_the_door_takes_no_model_and_is_not_closed(compose: ComposeUnderTest, method: str, path: str) -> None:
    connection = http.client.HTTPConnection(compose.endpoint, timeout=5)
    connection.request(method, path, b'{"parameters":{"config":"{}"}}')
    assert connection.getresponse().status >= 400
    connection.close()
    compose.ready()


@pytest.mark.parametrize("service", LOCKED)
def test_its_programs_have_no_capability_and_gain_none(compose: ComposeUnderTest, service: str) -> None:
    said = compose.execute(service, "sh", "-c", "cat /proc/[0-9]*/status")
    found = set(re.findall(r"^(?:Cap(?:Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Uid):.*", said, re.MULTILINE))
    uids = {line for line in found if line.startswith("Uid")}
    assert uids
    assert not any(re.search(r"\b0\b", line) for line in uids), "no program is root's"
    assert {re.split(r":\s*", line)[1] for line in found - uids} == {"0" * 16, "1"}
    with pytest.raises(RuntimeError, match="Read-only file system"):
        compose.execute(service, "sh", "-c", "echo > /here")


@pytest.mark.parametrize("service", SERVICES)
def test_it_has_its_own_secrets_alone(
    compose: ComposeUnderTest, served_by_compose: Served, service: str
) -> None:
    row = next(one for one in PLATFORM.values() if one.container == service)
    own = [f"postgres_{row.name}_password"] * row.database + [f"redis_{row.name}_password"] * row.online_store
    found = compose.execute(service, "sh", "-c", "ls /run/secrets 2>/dev/null || true").split()
    assert set(own) <= set(found)
    assert [name for name in found if row.name not in name] == []
    keys = compose.execute(service, "sh", "-c", "find / -name '*.pem' -path '*private*' 2>/dev/null || true")
    held = [] if row.keys == "verify" else [f"/var/lib/penstock/private-keys/{row.keys}.pem"]
    assert keys.split() == held


def test_keys_and_predictions_are_their_service_s_alone(
    compose: ComposeUnderTest, served_by_compose: Served
) -> None:
    """Volumes are closed to the machine's users by the engine's folder; these are by themselves, too."""
    find = r"find /var/lib/penstock -type f \( -name '*.pem' -o -name 'predictions.log*' \) -printf '%f %m\n'"
    said = {line for service in SERVICES for line in compose.execute(service, "sh", "-c", find).splitlines()}
    assert {"registry.pem 600", "predictions.log 600"} <= said
    assert {line.split()[-1] for line in said} == {"600"}


@pytest.mark.parametrize("service", [one.container for one in PLATFORM.values() if one.database])
def test_its_password_opens_its_own_database_alone(compose: ComposeUnderTest, service: str) -> None:
    environment = compose.config()["services"][service]["environment"]
    setting = f"PENSTOCK_{service.upper().replace('-', '_')}__DATABASE"
    url, file = environment[setting], environment[f"{setting}_PASSWORD_FILE"]
    databases = {one.name for one in PLATFORM.values() if one.database} | {"penstock", "postgres"}
    said = json.loads(compose.execute(service, "python", "-c", CONNECT, url, file, *databases))
    assert said.pop(url.rpartition("/")[2]) == ""
    assert [name for name, why in said.items() if "permission denied for database" not in why] == []
