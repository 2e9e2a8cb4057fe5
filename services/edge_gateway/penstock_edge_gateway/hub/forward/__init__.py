"""Events and predictions of sites on their way into the topics, each once and in order.

- `lanes.py` says what of a batch is new, by how far its lane was forwarded
- `translation.py` makes the messages, or says why no topic takes a record
- `parts.py` divides a batch in which Kafka refuses a message
- `positions.py` keeps how far in `edge-positions.v1`
- `forwarder.py` commits both in one Kafka transaction
- `lease.py`: one hub forwards, others stand by
"""
