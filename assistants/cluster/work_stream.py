"""The stream and the one consumer of the work queue, which all servers of a cluster share."""

import asyncio
import logging
import time
from typing import Any

from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from assistants.cluster.broker import Broker, broker_unavailable
from assistants.domain.errors import BrokerError

STREAM = "RUNS"
CONSUMER = "workers"
SUBJECT_PREFIX = "runs.dispatch."
_REPLICAS = 3
_DUPLICATE_WINDOW_S = 120
_MAX_AGE_S = 86_400
"""What is older is repaired by the sweep."""
_MAX_ACK_PENDING = 20_000
_MAX_WAITING_PULLS = 2_048
_PUBLISH_TRIES = 3
_TIMEOUT_S = 2.0
_PAUSE_S = 0.2
_SET_UP_PAUSE_S = 1.0
_JETSTREAM_STARTS_S = 5.0
"""A broker that has just started may take that long; one that never answers has none."""
_NO_MESSAGE = 10_037
_NOT_ENABLED = (10_039, 10_076)
"""JetStream's codes for: not for this account, not at all."""

_logger = logging.getLogger(__name__)


class WorkStream:
    """RUNS: a message a run, on a subject of its own, until it is answered."""

    def __init__(self, broker: Broker, *, ack_wait_s: float) -> None:
        self._broker = broker
        self._ack_wait_s = ack_wait_s
        self._jetstream = broker.client.jetstream(timeout=_TIMEOUT_S)

    async def wait_until_set_up(self) -> None:
        """Returns when the stream is there. Raises BrokerError when it never will be."""
        deadline = time.monotonic() + _JETSTREAM_STARTS_S
        while True:
            try:
                await self.set_up()
                return
            except (NatsError, OSError) as error:
                refused = isinstance(error, APIError) and error.err_code in _NOT_ENABLED
                nobody = isinstance(error, ServiceUnavailableError) and error.err_code is None
                if refused or (nobody and time.monotonic() > deadline):
                    raise BrokerError("NATS runs without JetStream: start it with -js") from error
                _logger.info("waiting for JetStream: %s", str(error) or type(error).__name__)
            await asyncio.sleep(_SET_UP_PAUSE_S)

    async def set_up(self) -> None:
        """Makes the stream, if it is not there, and the consumer. Raises NatsError."""
        try:
            await self._jetstream.stream_info(STREAM)
        except NotFoundError:
            await self._add_stream()
        config = ConsumerConfig(
            durable_name=CONSUMER,
            filter_subject=f"{SUBJECT_PREFIX}*",
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait_s,
            max_deliver=-1,
            max_ack_pending=_MAX_ACK_PENDING,
            max_waiting=_MAX_WAITING_PULLS,
        )
        await self._jetstream.add_consumer(STREAM, config)

    async def publish(self, run_id: str, data: bytes, *, message_id: str) -> None:
        """Adds a message; one whose id came in the last two minutes is dropped. Tells failures to the log."""
        failure: Exception | None = None
        for _ in range(_PUBLISH_TRIES):
            try:
                headers = {"Nats-Msg-Id": message_id}
                await self._jetstream.publish(
                    SUBJECT_PREFIX + run_id, data, timeout=_TIMEOUT_S, headers=headers
                )
                return
            except (NatsError, OSError) as error:
                failure = error
                await asyncio.sleep(_PAUSE_S)
        _logger.warning("%s is not in the queue yet: %s", run_id, str(failure) or type(failure).__name__)

    async def has(self, run_id: str) -> bool:
        """Whether a message of a run is not answered yet. Raises Unavailable."""
        if not self._broker.connected:
            raise broker_unavailable(ConnectionError("the connection is lost"))
        try:
            # Asked of the stream's leader: a replica may not know it yet.
            await self._jetstream.get_last_msg(STREAM, SUBJECT_PREFIX + run_id)
        except NotFoundError as error:
            if error.err_code == _NO_MESSAGE:
                return False
            raise broker_unavailable(error) from error  # it has lost the stream, which is made again
        except (NatsError, OSError) as error:
            raise broker_unavailable(error) from error
        return True

    async def _add_stream(self) -> None:
        settings: dict[str, Any] = {
            "name": STREAM,
            "subjects": ["runs.>"],
            "retention": RetentionPolicy.WORK_QUEUE,
            "storage": StorageType.FILE,
            "duplicate_window": _DUPLICATE_WINDOW_S,
            "max_age": _MAX_AGE_S,
            "allow_direct": True,
        }
        try:
            await self._jetstream.add_stream(StreamConfig(**settings, num_replicas=_REPLICAS))
        except APIError as error:
            _logger.info("the stream %s has one replica: %s", STREAM, error.description)
            await self._jetstream.add_stream(StreamConfig(**settings, num_replicas=1))
