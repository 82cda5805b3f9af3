"""The step traced again from a rebuilt scene, exactly as the capture traced it."""

from __future__ import annotations

from altgrad_cli.checkpoints.model import TraceRecord
from altgrad_cli.errors import AltgradError
from altgrad_cli.forensics.scene import Scene
from altgrad_cli.training.tracing import trace_step


def trace_again(scene: Scene) -> tuple[TraceRecord, ...]:
    """The records of the scene's step, planted faults included.

    Raises:
        AltgradError: there is no batch to run it with.
    """
    if scene.batch is None:
        raise AltgradError("the step cannot be repeated without its batch", where=scene.batch_origin)
    return trace_step(scene.state, scene.batch, faults=scene.faults).records
