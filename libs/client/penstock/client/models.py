"""Model versions: list, get, promote, roll back, fetch."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.client.connection import Connection
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.model_registry.v1 import model_registry_pb2_grpc


class Models:
    """`penstock.models`: versions, and which of them serves."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = model_registry_pb2_grpc.ModelRegistryServiceStub(connection.channel)

    def list(self, pipeline: str) -> list[registry.Version]:
        """Newest first."""
        return list(
            self._connection.call(
                self._stub.ListVersions, registry.ListVersionsRequest(pipeline=pipeline)
            ).versions
        )

    def get(self, version: str) -> registry.Version:
        """Returns a version by digest, unambiguous prefix or `pipeline@prefix`. Raises NotFound, Invalid."""
        return self._connection.call(self._stub.GetVersion, registry.GetVersionRequest(version=version))

    def promote(self, version: str, *, by: str = "") -> registry.Version:
        """Asks for promotion after a waiver, or again; evidence decides. Raises Refused with each reason."""
        return self._connection.call(
            self._stub.Promote, registry.PromoteRequest(version=version, promoted_by=by)
        )

    def roll_back(self, pipeline: str, *, by: str = "") -> registry.Version:
        """Back to the version promoted before, under a new generation; once, however often the
        network makes us ask.
        """
        now = self._connection.call(
            self._stub.GetPipeline, registry.GetPipelineRequest(pipeline=pipeline)
        ).generation
        request = registry.RollBackRequest(pipeline=pipeline, rolled_back_by=by, from_generation=now)
        return self._connection.call(self._stub.RollBack, request)

    def fetch(self, version: str) -> Iterator[bytes]:
        """The package as a tar stream, its signature included."""
        request = registry.FetchPackageRequest(version=version)
        for response in self._connection.fetch(self._stub.FetchPackage, request):
            yield response.chunk
