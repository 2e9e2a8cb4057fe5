"""The door's documents lead where they should and nowhere else; its first files keep what inference keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.contracts.site_door import SiteDoor
from penstock_inference.door.bootstrap import bootstrap
from penstock_inference.door.door import Backends, Door
from penstock_inference.door.files import adopt, make_log, prepare, write_clusters, write_routes
from penstock_inference.door.routes import clusters, routes
from penstock_inference.door.sites import SiteListener, listener
from penstock_inference.record.spool import log_files

BACKENDS = {"triton", "gateway-grpc", "gateway-http"}
INFERENCES = tuple(
    f"{name}{size}" for name in ("infer-grpc-read", "infer-grpc", "infer-http") for size in ("-large", "")
)
SERVICES = {"inference": "127.0.0.1:9186", "ingest": "ingest:9181"}


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(
        tmp_path / "envoy",
        "0.0.0.0:9080",
        "127.0.0.1:9199",
        Backends("127.0.0.1:9190", "gateway:9188", "gateway:9187"),
        SERVICES,
        health_listen="0.0.0.0:9198",
        traces="collector:4317",
    )


def ways(door: Door, closed: str | None = None, *, required: bool = True) -> dict[str, dict[str, Any]]:
    (host,) = routes(door, closed, required=required)["virtual_hosts"]
    return {way["name"]: way for way in host["routes"]}


def recorded(door: Door, closed: str | None = None, *, required: bool = True) -> dict[str, bool]:
    return {
        name: way["metadata"]["filter_metadata"]["envoy.filters.http.lua"]["required"]
        for name, way in ways(door, closed, required=required).items()
        if "typed_per_filter_config" in way
    }


def test_every_way_leads_to_a_cluster_that_there_is(door: Door) -> None:
    there = {cluster["name"] for cluster in clusters(door)}
    led = {way["route"]["cluster"] for way in ways(door).values() if "route" in way}
    assert led == there == {*BACKENDS, *SERVICES}


def test_inferences_are_recorded_and_nothing_else_is(door: Door) -> None:
    assert recorded(door) == dict.fromkeys(INFERENCES, True)
    assert recorded(door, required=False) == dict.fromkeys(INFERENCES, False)
    assert ways(door).keys() >= {"oip-ModelReady", "closed-grpc", "closed-statistics"}


def test_only_a_served_model_is_waited_for_where_triton_does_not_know_it(door: Door) -> None:
    def waited_for(served: list[str]) -> set[str]:
        (host,) = routes(door, required=True, served=served)["virtual_hosts"]
        way = next(way for way in host["routes"] if way["name"] == "infer-http")
        return {one["string_match"]["contains"] for one in way["route"]["retry_policy"]["retriable_headers"]}

    assert waited_for(["loans"]) - waited_for([]) == {
        "Request for unknown model: 'loans' is not found",
        "'loans' has no available versions",
    }
    assert not any("versions" in said for said in waited_for([])), "of what is stopped nobody waits"


def test_a_closed_door_predicts_nothing_and_is_not_ready(door: Door) -> None:
    shut = {
        name: way["direct_response"]["body"]["inline_string"]
        for name, way in ways(door, "the disk is full").items()
        if way.get("direct_response", {}).get("status") == 503
    }
    names = (*INFERENCES, "oip-ServerReady", "oip-ModelReady", "oip-http-ready")
    assert shut == dict.fromkeys(names, "the disk is full")
    assert not any("route" in ways(door, "the disk is full")[name] for name in names)


def test_while_it_is_held_nobody_is_behind_triton(door: Door) -> None:
    open_, held = ({one["name"]: one for one in clusters(door, held=state)} for state in (False, True))
    assert {name for name, one in held.items() if one != open_[name]} == BACKENDS
    assert "127.0.0.1" in json.dumps(held["gateway-http"])


def test_the_bootstrap_has_what_its_door_asks_for(door: Door) -> None:
    whole = bootstrap(door)["static_resources"]
    assert [listener["name"] for listener in whole["listeners"]] == ["door", "health"]
    assert [cluster["name"] for cluster in whole["clusters"]] == ["administration", "collector"]
    small = bootstrap(replace(door, health_listen="", traces=""))["static_resources"]
    assert [listener["name"] for listener in small["listeners"]] == ["door"]
    assert small["clusters"] == []
    script = json.dumps(whole["listeners"][0])
    dynamic = bootstrap(door)["dynamic_resources"]["cds_config"]
    watched = dynamic["path_config_source"]["watched_directory"]["path"]
    assert Path(watched) != door.log.parent  # each line would wake Envoy's main thread
    assert str(door.log) in script
    assert "@LOG@" not in script


# -- first files -----------------------------------------------------------------------------------


def read(door: Door, name: str) -> Any:
    return json.loads((door.folder / name).read_bytes())


def test_a_call_is_counted_by_its_status_only_where_somebody_can_ask_for_that(door: Door) -> None:
    def router(of: Door) -> Any:
        (chain,) = bootstrap(of)["static_resources"]["listeners"][0]["filter_chains"]
        return chain["filters"][0]["typed_config"]["http_filters"][-1]["typed_config"]

    assert router(door)["dynamic_stats"]
    assert not router(replace(door, health_listen=""))["dynamic_stats"]
    assert router(door)["suppress_envoy_headers"]


def test_the_first_files_are_all_there_and_private(door: Door) -> None:
    prepare(door)
    assert {path.name for path in door.folder.iterdir()} == {
        "envoy.json",
        "cds.json",
        "rds.json",
        "lds.json",
        "log",
    }
    assert [path.name for path in door.logs.iterdir()] == ["predictions.log"]
    modes = [path.stat().st_mode & 0o777 for path in (door.folder, door.logs, door.log)]
    assert modes == [0o700, 0o700, 0o600]
    assert read(door, "rds.json")["resources"] == [routes(door, required=True)]


def test_what_inference_keeps_already_stays(door: Door) -> None:
    prepare(door)
    write_routes(door, "the disk is full", required=True)
    write_clusters(door, held=True)
    door.log.write_text("a line\n")
    kept = [read(door, name) for name in ("rds.json", "cds.json")]
    prepare(replace(door, listen="0.0.0.0:9081"))
    assert [read(door, name) for name in ("rds.json", "cds.json")] == kept
    assert door.log.read_text() == "a line\n"
    assert "9081" in json.dumps(read(door, "envoy.json"))


def test_clusters_of_other_addresses_do_not_stay(door: Door) -> None:
    """Ports that another stack has now: a prediction must not go there."""
    prepare(door)
    moved = replace(door, backends=Backends("127.0.0.1:9290", "127.0.0.1:9291", "127.0.0.1:9292"))
    prepare(moved)
    assert read(door, "cds.json")["resources"] == clusters(moved)


@pytest.mark.parametrize("name", ["cds.json", "rds.json"])
def test_a_broken_file_is_made_anew(door: Door, name: str) -> None:
    prepare(door)
    (door.folder / name).write_text("{")
    prepare(door)
    assert read(door, name)["resources"]


def test_a_log_that_is_a_link_is_left_to_the_keeper(door: Door) -> None:
    prepare(door)
    door.log.unlink()
    door.log.symlink_to("/dev/full")
    prepare(door)
    assert door.log.is_symlink()
    with pytest.raises(OSError, match="symbolic"):
        make_log(door)


def test_the_log_of_the_release_before_is_taken_in_oldest_first(door: Door) -> None:
    """It lay in the door's folder itself; an Envoy that was not started again still writes there."""
    door.folder.mkdir()
    for name in ("predictions-00000000000000000001.log", "predictions.log"):
        (door.folder / name).write_text(name)
    prepare(door)
    door.log.write_text("new")
    (door.folder / "predictions.log").write_text("late")
    adopt(door)
    found = [path.read_text() for path in log_files(door.logs)]
    assert found == ["predictions-00000000000000000001.log", "predictions.log", "late", "new"]
    assert not list(door.folder.glob("*.log"))


# -- sites -----------------------------------------------------------------------------------------


HANDED = SiteDoor(authority="authority", certificate="certificate", key="key", secret="secret")


def test_the_door_for_sites_leads_to_the_hub_alone() -> None:
    told = listener("0.0.0.0:9443", HANDED)
    sites, join = told["filter_chains"]
    assert sites["transport_socket"]["typed_config"]["require_client_certificate"]
    led = [
        (way["match"], way["route"]["cluster"])
        for chain in (sites, join)
        for way in chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
        if "route" in way
    ]
    hub = "/penstock.edge_gateway.v1.HubService/"
    assert led == [
        ({"prefix": hub, "grpc": {}}, "edge_gateway"),
        ({"path": f"{hub}Join", "grpc": {}}, "edge_gateway"),
    ]


def test_the_door_for_sites_opens_when_the_hub_has_handed_over(door: Door, tmp_path: Path) -> None:
    prepare(door)
    sites = SiteListener("0.0.0.0:9443", door.folder, tmp_path / "door.json")
    assert read(door, "lds.json")["resources"] == []
    sites.write()
    assert read(door, "lds.json")["resources"] == []
    sites.handed.write_text(HANDED.model_dump_json())
    sites.write()
    opened = read(door, "lds.json")
    assert [one["name"] for one in opened["resources"]] == ["sites"]
    sites.handed.write_text("{")  # damaged: what is open stays so
    sites.write()
    prepare(door)
    assert read(door, "lds.json") == opened
