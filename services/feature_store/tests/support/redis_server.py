"""A Redis that a test may kill, start again and set back to what it had written before. The feature
store is the user that it is in docker-compose.yml; the tests have one who may do everything.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from penstock.testing import containers
from penstock.testing.checkout import ROOT
from penstock.testing.compose import image_of
from penstock.testing.containers import Container
from penstock.testing.wait import until
from penstock_feature_store.online.redis_server import Address

PASSWORD = "correct-horse-battery-staple"
_LOG = "$(ls -t /data/appendonlydir/*.incr.aof | head -1)"
_START = (ROOT / "deploy" / "compose" / "redis" / "start.sh").read_text()
_RUN = f"""
mkdir -p /run/secrets /run/redis
echo {PASSWORD} > /run/secrets/redis_feature_store_password
cat > /tmp/start.sh <<'END'
{_START}
END
while :; do
    [ -e /tmp/held ] || sh /tmp/start.sh --pidfile /tmp/redis.pid --dir /data --save '' --databases 64 \\
      --user tests on '>{PASSWORD}' '~*' '+@all'
    sleep 0.05
done
"""
"""Above the server, so that it can be killed while its files are at hand."""


class RedisServer:
    def __init__(self, container: Container, password_file: Path) -> None:
        self._container = container
        self.password_file = password_file

    @property
    def url(self) -> str:
        return f"redis://feature_store@{self._container.address}"

    def address(self, database: int = 0) -> Address:
        return Address.read(f"{self.url}/{database}")

    def ask(self, *command: str) -> str:
        login = ("--no-auth-warning", "--user", "tests", "-a", PASSWORD)
        return self._container.execute("redis-cli", *login, *command)

    def kill(self) -> None:
        """SIGKILL; it stays down until `start`."""
        self._shell("touch /tmp/held; kill -9 $(cat /tmp/redis.pid)")
        until(lambda: not answers(self._container), what="Redis is down")

    def start(self) -> None:
        self._shell("rm -f /tmp/held")
        self._container.wait()

    def empty(self) -> None:
        """What it had is gone, files and all."""
        self.kill()
        self._shell("rm -rf /data/*")
        self.start()

    def log_bytes(self) -> int:
        return int(self._shell(f"stat -c %s {_LOG}"))

    def cut_log(self, to_bytes: int) -> None:
        """Started again without what it wrote last, as after a power cut."""
        self.kill()
        self._shell(f"truncate -s {to_bytes} {_LOG}")
        self.start()

    def holds(self, text: str) -> bool:
        """In any of its files."""
        return self._shell(f"grep -rl -- '{text}' /data || true").strip() != ""

    def _shell(self, script: str) -> str:
        return self._container.execute("sh", "-c", script)


def answers(container: Container) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", container.port), timeout=5) as connection:
            connection.sendall(f"AUTH tests {PASSWORD}\r\nPING\r\n".encode())
            said = b""
            while len(said.split(b"\r\n")) < 3 and (more := connection.recv(100)):
                said += more
            return said == b"+OK\r\n+PONG\r\n"
    except OSError:
        return False


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """Raises CannotRun where there is no Docker."""
    password_file = folder / "redis_password"
    password_file.write_text(f"{PASSWORD}\n")
    with containers.run(image_of("redis"), port=6379, ready=answers, command=["sh", "-c", _RUN]) as container:
        yield RedisServer(container, password_file)
