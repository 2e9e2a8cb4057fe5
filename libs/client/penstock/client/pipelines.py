"""Pipelines: apply, list, get."""

from __future__ import annotations

import json

from penstock.client.connection import Connection
from penstock.contracts.errors import Conflict, Invalid
from penstock.contracts.pipeline import Pipeline
from penstock.model_registry.v1 import model_registry_pb2 as registry
from penstock.model_registry.v1 import model_registry_pb2_grpc


class BadPipelineFile(Invalid):
    """The registry's list of problems, each with line, column and key."""

    def __init__(self, file: str, problems: list[registry.Problem]) -> None:
        self.problems = problems
        lines = [
            f"{file}:{p.line}:{p.column}  {p.key}: {p.message}" if p.line else f"{file}  {p.key}: {p.message}"
            for p in problems
        ]
        super().__init__(
            "\n".join(
                [*lines, f"{len(problems)} problem{'s' if len(problems) != 1 else ''}, nothing applied"]
            )
        )


def stopped(pipeline: registry.Pipeline) -> str:
    """Reason of `serving.stopped` in the file; empty where it has none."""
    return json.loads(pipeline.spec_json).get("serving", {}).get("stopped") or ""


class Pipelines:
    """`penstock.pipelines`: what teams have declared."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = model_registry_pb2_grpc.ModelRegistryServiceStub(connection.channel)

    def apply(
        self, text: str, *, file: str = "pipeline.yaml", by: str = "", dry_run: bool = False
    ) -> registry.ApplyPipelineResponse:
        """Checks, numbers and publishes; the same text again changes nothing. Raises
        BadPipelineFile with every problem.
        """
        request = registry.ApplyPipelineRequest(text=text, file=file, applied_by=by, dry_run=dry_run)
        response = self._connection.call(self._stub.ApplyPipeline, request)
        if response.problems:
            raise BadPipelineFile(file, list(response.problems))
        return response

    def stop(self, pipeline: str, why: str, *, by: str = "") -> registry.ApplyPipelineResponse:
        """Has no version of the pipeline answer until `resume`: applies its newest file with
        `serving.stopped`. Raises NotFound, Invalid, Conflict where it replaced a file that somebody applied
        meanwhile.
        """
        return self._apply_stopped(pipeline, why, by)

    def resume(self, pipeline: str, *, by: str = "") -> registry.ApplyPipelineResponse:
        """Has the promoted version answer again. Raises NotFound, Conflict as `stop` does."""
        return self._apply_stopped(pipeline, None, by)

    def stopped(self, pipeline: str) -> str:
        """Reason why no version of it answers; empty where it is not stopped. Raises NotFound."""
        return stopped(self.get(pipeline))

    def _apply_stopped(self, pipeline: str, why: str | None, by: str) -> registry.ApplyPipelineResponse:
        from penstock.client.rewriting import with_stopped  # ruamel: no other call needs it

        newest, file = self.get(pipeline), f"the applied file of {pipeline}"
        applied = self.apply(with_stopped(newest.text, why, file), file=file, by=by)
        if applied.changed and applied.number != newest.number + 1:
            done = "is stopped" if why else "is stopped no longer"
            raise Conflict(
                f"{pipeline} {done}, but file number {applied.number - 1}, applied meanwhile, was replaced by"
                f" number {applied.number}, which is number {newest.number} edited",
                remedy="Apply that file again, with serving.stopped in it where it is to stay stopped",
            )
        return applied

    def delete(self, pipeline: str, *, by: str = "") -> registry.DeletePipelineResponse:
        """Deletes a pipeline that never served; a repeat finds it done. Raises NotFound, Refused where a
        version was ever promoted or a prediction recorded.
        """
        return self._connection.call(
            self._stub.DeletePipeline, registry.DeletePipelineRequest(pipeline=pipeline, deleted_by=by)
        )

    def list(self) -> list[registry.Pipeline]:
        """Lists every pipeline and the version that each serves."""
        return list(
            self._connection.call(self._stub.ListPipelines, registry.ListPipelinesRequest()).pipelines
        )

    def get(self, pipeline: str, *, number: int = 0) -> registry.Pipeline:
        """The newest, or the one with that number. Raises NotFound."""
        return self._connection.call(
            self._stub.GetPipeline, registry.GetPipelineRequest(pipeline=pipeline, number=number)
        )

    def spec(self, pipeline: str) -> Pipeline:
        """The newest file as typed data."""
        return Pipeline.model_validate(json.loads(self.get(pipeline).spec_json))
