"""A TensorBoard mirror of a run. Local JSON lines are the truth; the mirror may fail without hurting the run."""

from __future__ import annotations

import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np


class Mirror:
    """Scalars as TensorBoard events; made anew at every start from what the run has logged so far."""

    def __init__(self, folder: Path) -> None:
        self._writer: Any = None
        try:
            # The writer alone: torch.utils.tensorboard costs a second or two more at start-up.
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            shutil.rmtree(folder, ignore_errors=True)
            self._writer = EventFileWriter(str(folder))
        except Exception as error:
            warnings.warn(f"no TensorBoard mirror: {error}", stacklevel=2)

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        if self._writer is None:
            return
        try:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.compat.proto.summary_pb2 import Summary

            summary = Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()])
            self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
        except Exception as error:
            warnings.warn(f"the TensorBoard mirror stopped: {error}", stacklevel=2)
            self._writer = None

    def metrics(self, row: dict[str, float]) -> None:
        """A line of metrics.jsonl."""
        self._scalars(int(row["update"]), {f"train/{k}": v for k, v in row.items() if k != "update"})

    def returns(self, update: int, phase: str, returns: list[float]) -> None:
        """The returns of one evaluation."""
        self._scalars(update, {f"evaluation/{phase}_return": float(np.mean(returns))})

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
