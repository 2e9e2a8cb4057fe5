"""Programs of a stack: command, settings and supervision of each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from penstock.contracts.services import PLATFORM
from penstock.runtime.settings import KafkaSettings, Platform
from penstock.stack import envoy, passwords, stackfile
from penstock.stack.kafka import Broker
from penstock.stack.launch import Spec
from penstock.stack.stackfile import StackFile
from penstock.stack.supervisor import Program
from penstock.stack.triton import Triton

KAFKA, TRITON, GATEWAY, ENVOY = "kafka", "triton", "gateway", "envoy"
PARTS = (KAFKA, TRITON, GATEWAY, ENVOY)

# Variables that keep every library from phoning home.
QUIET = {
    "DO_NOT_TRACK": "1",
    "FEAST_USAGE": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def all_services() -> tuple[str, ...]:
    """Installed services, in the order in which `status` lists them."""
    return tuple(service for service in PLATFORM if _installed(service))


def preparing_services() -> tuple[str, ...]:
    """Installed services that write the files which Triton and Envoy start from."""
    return tuple(service for service in all_services() if PLATFORM[service].triton)


def _installed(service: str) -> bool:
    try:
        return find_spec(f"penstock_{service}.__main__") is not None
    except ModuleNotFoundError:
        return False


def broker(stack: StackFile) -> Broker:
    ports = stack.ports
    return Broker(
        stack.home / KAFKA, ports["kafka"], ports["kafka_controller"], services=ports["kafka_services"]
    )


def kafka_user(stack: StackFile, user: str) -> KafkaSettings:
    """Settings by which a user of the stack's broker reaches it."""
    prefix = Platform().kafka.topic_prefix
    return passwords.settings(stack.home / KAFKA, stack.kafka_services, user, prefix)


def triton(stack: StackFile) -> Triton:
    return Triton(
        models=stack.home / "triton" / "models",
        link=stackfile.socket(stack.home).parent / "models",
        grpc=stack.triton_grpc,
        metrics_port=stack.ports["triton_metrics"],
        shared_memory=stackfile.shared_memory(stack.home),
    )


def platform(stack: StackFile) -> dict[str, str]:
    """Settings that all services of the stack share, and the tools that run beside them."""
    return {
        "PENSTOCK_HOME": str(stack.home),
        "PENSTOCK_ENDPOINT": stack.endpoint,
        **{f"PENSTOCK_PEERS__{service.upper()}": address for service, address in stack.services.items()},
        **QUIET,
    }


def service_settings(stack: StackFile, service: str) -> dict[str, str]:
    """Settings of one service: `PENSTOCK_<SERVICE>__…`, and who it is to Kafka."""
    user = kafka_user(stack, service).model_dump(exclude={"topic_prefix"}, exclude_none=True)
    own = {"PORT": str(stack.ports[service])}
    if PLATFORM[service].triton:
        own |= {
            "TRITON_GRPC": stack.triton_grpc,
            "GATEWAY_GRPC": stack.gateway_grpc,
            "GATEWAY_HTTP": stack.gateway_http,
            "DOOR_ADMIN": stack.door_admin,
            "SITES_LISTEN": f"127.0.0.1:{stack.ports['sites']}",
        }
    if PLATFORM[service].sites:
        own |= {"SITES_ADDRESS": f"127.0.0.1:{stack.ports['sites']}"}
    return {f"PENSTOCK_{service.upper()}__{name}": value for name, value in own.items()} | {
        f"PENSTOCK_KAFKA__{name.upper()}": str(value) for name, value in user.items()
    }


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of the caller, less what the stack decides itself: its addresses, and how to
    reach its Kafka. A proxy that it names is not for what lies on this machine.
    """
    decided = (
        "PENSTOCK_HOME",
        "PENSTOCK_ENDPOINT",
        "PENSTOCK_PEERS__",
        "PENSTOCK_KAFKA__",
        "PENSTOCK_STACK_",
    )
    ports = tuple(f"PENSTOCK_{service.upper()}__PORT" for service in PLATFORM)
    proxied = any(name.lower().endswith("_proxy") for name in environment)
    direct = {
        name: ",".join(filter(None, (environment.get(name), "127.0.0.1,localhost,::1")))
        for name in ("no_proxy", "NO_PROXY")
        if proxied
    }
    return direct | {
        name: value
        for name, value in environment.items()
        if name == "PENSTOCK_KAFKA__TOPIC_PREFIX" or not name.startswith((*decided, *ports, *direct))
    }


def specs(stack: StackFile) -> list[Spec]:
    """Command and environment of each program of the stack."""
    home = str(stack.home)
    server = triton(stack)
    # Threads of a service allocate in two arenas instead of eight a core: a third less memory. Pydantic
    # need not look through all installed packages for plugins of its own: a fiftieth of a start.
    own = {"PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2", "PYDANTIC_DISABLE_PLUGINS": "__all__"}
    common = platform(stack) | own
    services = [
        Spec(
            home,
            service,
            [sys.executable, "-m", f"penstock_{service}"],
            common | service_settings(stack, service),
        )
        for service in stack.services
    ]
    return [
        Spec(home, KAFKA, broker(stack).command(), {}),
        Spec(
            home,
            TRITON,
            server.command(),
            server.environment(),
            server.shared_memory,
        ),
        *(
            Spec(
                home,
                GATEWAY,
                [sys.executable, "-m", f"penstock_{service}.gateway"],
                common | service_settings(stack, service),
            )
            for service in preparing_services()
        ),
        Spec(home, ENVOY, envoy.command(stack.home / "envoy"), {}),
        *services,
    ]


def supervised(spec: Spec, path: Path) -> Program:
    """Supervision of a program: its launcher and its group."""
    group = {KAFKA: "broker", TRITON: "serving", GATEWAY: "serving", ENVOY: "serving"}.get(
        spec.program, "services"
    )
    command = [sys.executable, "-m", "penstock.stack.launch", str(path)]
    return Program(spec.program, group, command)
