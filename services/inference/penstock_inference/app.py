"""The wiring."""

from __future__ import annotations

from penstock.contracts import metrics
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.services import PLATFORM
from penstock.contracts.topics import pipeline_topics, predictions_topic
from penstock.inference.v1 import inference_pb2_grpc
from penstock.runtime import rpc
from penstock.runtime.broker import Router
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.lifecycle import Service
from penstock.runtime.settings import KafkaSettings
from penstock_inference import handlers
from penstock_inference.door import services as door_services
from penstock_inference.door.files import write_first
from penstock_inference.door.keeper import DoorKeeper
from penstock_inference.record.housekeeping import Housekeeping
from penstock_inference.record.origin import Origins
from penstock_inference.record.recorder import Recorder, RecorderSettings
from penstock_inference.servicer import Record, Servicer
from penstock_inference.serving.admission import Admission
from penstock_inference.serving.repository import ModelRepository
from penstock_inference.serving.serving import Serving
from penstock_inference.serving.triton import Triton
from penstock_inference.settings import Settings
from penstock_inference.store import Tables


async def run(settings: Settings) -> None:
    async with Service("inference", settings) as service, Triton(settings.triton_grpc) as triton:
        platform, door, every = settings.platform, settings.door, settings.reconcile_every.total_seconds()
        store = await service.store(Tables.metadata, migrations="penstock_inference.migrations")
        serving = Serving(
            store=store,
            admission=Admission(service.artifacts, platform.keys, settings.data_dir / "packages"),
            repository=ModelRepository(settings.repository),
            triton=triton,
            status=service,
            clock=service.clock,
            prepare=lambda model: make_topic(platform.kafka, model.package.pipeline),
            hold=lambda held: keeper.hold(held),
            device=settings.triton_device,
        )
        if not (door.folder / "envoy.json").exists():
            write_first(door)
        keeper = DoorKeeper(
            door,
            service,
            required=lambda: serving.recording_required,
            reserve_bytes=settings.log_reserve_bytes,
        )
        origins = Origins(settings.data_dir)
        recorder = Recorder(
            RecorderSettings(
                platform.kafka, door.folder, settings.data_dir / "recorder.json", settings.replica
            ),
            status=service,
            layouts=serving.layout,
            origins=origins,
            ensure_topic=lambda pipeline: make_topic(platform.kafka, serving.pipeline(pipeline)),
            tidy=Housekeeping(door, settings.log_rotate_bytes, settings.log_rotate_after, settings.log_keep),
        )
        for metric, read in serving.readings().items():
            service.observe(metric, read)
        service.observe(metrics.RECORDER_BACKLOG, lambda: [(float(recorder.progress.backlog_bytes), {})])
        service.observe(metrics.DOOR_CLOSED, lambda: [(float(keeper.closed is not None), {})])
        router = handlers.router(serving, store)
        service.consume(router)
        service.serve(
            inference_pb2_grpc.add_InferenceServiceServicer_to_server,
            Servicer(
                models=serving.models,
                store=store,
                record=lambda: Record(recorder.progress.backlog_bytes, keeper.closed),
                door=rpc.connect(platform.endpoint),
                feature_store=service.channel("feature_store"),
                origins=origins,
            ),
            "penstock.inference.v1.InferenceService",
        )
        channels = {
            name: rpc.connect(settings.address) if name == "inference" else service.channel(name)
            for name in PLATFORM
        }
        service.serve(door_services.add_to_server, door_services.DoorServices(channels, triton))
        service.background("serving", lambda: serving.run(every))
        service.background("promotions", lambda: tell_when_caught_up(router, serving))
        service.background("door", lambda: keeper.run(every))
        service.thread("recorder", recorder.run)
        await service.until_stopped()


async def tell_when_caught_up(router: Router, serving: Serving) -> None:
    await router.caught_up("pipelines.v1")
    serving.pipelines_known()
    await router.caught_up("model-versions.v1")
    serving.caught_up()


def make_topic(kafka: KafkaSettings, pipeline: Pipeline) -> None:
    """The pipeline's record, with the retention that it asks for. Blocks; raises Unavailable."""
    name = predictions_topic(pipeline.pipeline)
    ensure_topics(kafka, [topic for topic in pipeline_topics(pipeline) if topic.name == name])
