"""What TensorBoard shows of a run: the event files, read as it reads them."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog


def scalars(directory):
    """tag -> [(step, value), ...] in the order in which they came.

    A start of a session at step s makes TensorBoard forget what it has of step s and of those after it.
    """
    shown = {}
    for event in _events(Path(directory)):
        if event.session_log.status == SessionLog.START:
            for tag in shown:
                shown[tag] = [(step, value) for step, value in shown[tag] if step < event.step]
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                shown.setdefault(value.tag, []).append((event.step, value.simple_value))
    return shown


def _events(directory):
    """The events of all files, one file after the other by name, as TensorBoard loads them."""
    for file in sorted(directory.iterdir()):
        data, at = file.read_bytes(), 0
        while at + 12 <= len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            if at + 16 + length > len(data):
                break  # a killed process left half of it
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
