"""The wiring, and the only file that knows all the others."""

from __future__ import annotations

from functools import partial

from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.contracts.services import PLATFORM
from penstock.feature_store.v1 import feature_store_pb2, feature_store_pb2_grpc
from penstock.inference.v1 import fallback_pb2_grpc, inference_pb2_grpc
from penstock.packages.admission import Admission, from_artifacts
from penstock.packages.keys import Keys
from penstock.runtime import rpc
from penstock.runtime.lifecycle import Service
from penstock.runtime.readiness import Readiness
from penstock_inference import handlers, readings
from penstock_inference.asking import Asking
from penstock_inference.connection import INFER
from penstock_inference.door.keeper import DoorKeeper
from penstock_inference.door.services import DoorServices, add_to_server
from penstock_inference.prepare import prepare
from penstock_inference.record.origin import Origins
from penstock_inference.record.publisher import Publisher, ensure_predictions_topic
from penstock_inference.record.recorder import Recorder
from penstock_inference.record.spool import Housekeeping
from penstock_inference.servicer import Servicer
from penstock_inference.serving.deployer import Deployer
from penstock_inference.serving.deployment import Deployments
from penstock_inference.serving.repository import ModelRepository
from penstock_inference.serving.rollout import Rollout
from penstock_inference.serving.serving import Serving
from penstock_inference.serving.triton import Triton
from penstock_inference.settings import Settings
from penstock_inference.short import Short
from penstock_inference.site_servicer import SiteQuestions
from penstock_inference.store import Tables


async def run(settings: Settings) -> None:
    async with Triton(settings.triton_grpc) as triton, Service("inference", settings) as service:
        every_s = settings.reconcile_every.total_seconds()
        prepare(settings)
        store = await service.store(Tables.metadata, migrations="penstock_inference.migrations")
        keys = Keys(settings.platform.keys)
        deployments = Deployments(store, keys, service.clock)
        await deployments.restore()
        keeper = DoorKeeper(
            settings.door,
            service.readiness,
            required=lambda: deployments.record_required,
            served=lambda: deployments.served,
            reserve_bytes=settings.log_reserve_bytes,
        )
        serving = _serving(settings, deployments, triton, service, keeper)
        origins = Origins(settings.data_dir)
        recorder = _recorder(settings, deployments, service.readiness, origins)

        promotions = handlers.Promotions(serving, keys)
        await service.restores(deployments.applied, promotions, before_calls=not deployments.remembered)
        asking = Asking(_infer(settings.platform.endpoint), origins)
        servicer = Servicer(deployments, recorder, keeper, asking, _online(settings, service))
        service.serve(inference_pb2_grpc.add_InferenceServiceServicer_to_server, servicer)
        sites = SiteQuestions(deployments, asking, settings.site_listener.handed)
        service.serve(fallback_pb2_grpc.add_FallbackServiceServicer_to_server, sites)
        channels = {
            name: rpc.connect(settings.address) if name == "inference" else service.channel(name)
            for name in PLATFORM
        }
        service.serve(add_to_server, DoorServices(channels, triton), always=True)
        service.observe(readings.metrics(deployments, recorder, keeper))
        service.background("serving", lambda: serving.run(every_s))
        service.background("door", lambda: keeper.run(every_s))
        service.background("door for sites", lambda: settings.site_listener.run(every_s))
        service.thread("recorder", recorder.run)
        await service.until_stopped()


def _serving(
    settings: Settings, deployments: Deployments, triton: Triton, service: Service, keeper: DoorKeeper
) -> Serving:
    ensure_topic = partial(ensure_predictions_topic, settings.platform.kafka)
    fetch = from_artifacts(service.artifacts.fetch)
    admission = Admission(fetch, settings.platform.keys, settings.data_dir / "packages")
    rollout = Rollout(triton, ModelRepository(settings.repository), settings.triton_device)
    deployer = Deployer(deployments, admission, rollout, service.readiness, ensure_topic)
    return Serving(deployments, admission, rollout, deployer, service.readiness, keeper.hold)


def _infer(door: str) -> Short:
    channel = service_pb2_grpc.GRPCInferenceServiceStub(rpc.connect(door)).ModelInfer
    return Short(door, INFER, channel, service_pb2.ModelInferResponse.FromString, retried=True)


def _online(settings: Settings, service: Service) -> Short:
    stub = feature_store_pb2_grpc.FeatureStoreServiceStub(service.channel("feature_store"))
    return Short(
        settings.platform.peer("feature_store"),
        "/penstock.feature_store.v1.FeatureStoreService/GetOnlineFeatures",
        stub.GetOnlineFeatures,
        feature_store_pb2.GetOnlineFeaturesResponse.FromString,
        retried=True,
    )


def _recorder(
    settings: Settings, deployments: Deployments, readiness: Readiness, origins: Origins
) -> Recorder:
    kafka, door = settings.platform.kafka, settings.door
    return Recorder(
        door.logs,
        partial(Publisher, kafka, settings.replica, settings.data_dir / "recorder.json"),
        layouts=deployments.layout,
        ensure_topic=lambda pipeline: ensure_predictions_topic(kafka, deployments.of(pipeline).declared),
        tidy=Housekeeping(door, settings.log_rotate_bytes, settings.log_rotate_after, settings.log_keep),
        origins=origins,
        status=readiness,
    )
