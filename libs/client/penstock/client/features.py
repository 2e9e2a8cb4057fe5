"""The feature store: online values, where it stands, single records, erasure."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.client.connection import Connection
from penstock.feature_store.v1 import feature_store_pb2 as features
from penstock.feature_store.v1 import feature_store_pb2_grpc


class Features:
    """`penstock.features`: what the feature store holds of an entity."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = feature_store_pb2_grpc.FeatureStoreServiceStub(connection.channel)

    def online(
        self, pipeline: str, entities: Iterable[str], fields: Iterable[str] = ()
    ) -> features.GetOnlineFeaturesResponse:
        """The newest values of each entity, with the event that each is from; all fields where none
        are named. Raises NotFound.
        """
        request = features.GetOnlineFeaturesRequest(
            pipeline=pipeline, entities=list(entities), fields=list(fields)
        )
        return self._connection.call(self._stub.GetOnlineFeatures, request)

    def positions(self, pipeline: str) -> features.GetPositionsResponse:
        """Returns the offset up to which the lake has read each partition of the events topics."""
        return self._connection.call(self._stub.GetPositions, features.GetPositionsRequest(pipeline=pipeline))

    def records(
        self,
        pipeline: str,
        source: str,
        *,
        entity: str = "",
        id: str = "",  # noqa: A002
        limit: int = 100,
    ) -> list[features.Record]:
        """Accepted events by entity or by id, newest event time first."""
        by = {"entity": entity} if entity else {"id": id}
        request = features.GetRecordsRequest(pipeline=pipeline, source=source, limit=limit, **by)
        return list(self._connection.call(self._stub.GetRecords, request).records)

    def erase(self, pipeline: str, entity: str) -> features.EraseEntityResponse:
        """Removes the entity from lake, online store and training sets; packages and audits hold no
        person's rows.
        """
        return self._connection.call(
            self._stub.EraseEntity, features.EraseEntityRequest(pipeline=pipeline, entity=entity), timeout=300
        )
