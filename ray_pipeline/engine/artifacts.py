"""An artifact stage's work: what is there, what is made, and where its figures go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.hashing import fingerprint
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.segments import Segment
from ray_pipeline.rundir.layout import METRICS_FILE, part_path, work_folder
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import ArtifactStage, Workplace


def check_stages(segments: Sequence[Segment]) -> None:
    """Let the stages that are to run look at their configuration.

    Raises:
        UserError: one could not work; the message names it.
    """
    for segment in segments:
        for stage in segment.stages:
            try:
                stage.check()
            except UserError as error:
                raise UserError(f"stages.{stage.name}: {error}") from None


@dataclass(frozen=True)
class Artifact:
    """What one segment of this kind makes."""

    storage: Storage
    segment: Segment

    @property
    def stage(self) -> ArtifactStage:
        """The stage; such a segment has one."""
        (stage,) = self.segment.stages
        assert isinstance(stage, ArtifactStage)
        return stage

    def is_there(self) -> bool:
        """Whether all that the stage makes lies in the run directory."""
        return all(self.storage.exists(path) for path in self.stage.makes)

    def make(
        self,
        rows_folder: str,
        unit_ids: Sequence[str],
        input_digest: str,
        say: Callable[[str], None],
    ) -> str:
        """Make it of the rows in a segment's folder; returns what later stages depend on, hashed.

        What a killed attempt at the same artifact left stays for the stage to go on with; what was
        left by one of other rows or another configuration is deleted first. A stage that works on
        the rows of some sources alone makes nothing anew while these are the same.
        """
        identity = fingerprint([self.segment.fingerprint, input_digest])
        folder, marker = work_folder(self.segment.folder), f"{self.segment.folder}/identity"
        made = f"{self.segment.folder}/made"
        if self.stage.sources is not None and self.is_there():
            # Rows of other sources have changed, or else the whole segment would stand.
            before, _, digest = (self.storage.read_bytes(made) or b"").decode().partition(" ")
            if before == identity:
                return digest
        self.storage.delete(made)
        if self.storage.read_bytes(marker) != identity.encode():
            self.storage.delete_folder(folder)
            self.storage.write_bytes(marker, identity.encode())
        paths = tuple(part_path(rows_folder, unit_id) for unit_id in unit_ids)
        rows = StoredRows(self.storage, paths, input_digest)
        say(f"making {self.stage.name}")
        place = Workplace(self.storage, folder, say)
        figures = self.stage.make(rows, place)
        self._record(figures)
        outcome = self.stage.outcome(place)
        digest = identity if outcome is None else fingerprint([identity, outcome])
        if self.stage.sources is not None:
            self.storage.write_bytes(made, f"{identity} {digest}".encode())
        return digest

    def _record(self, figures: dict[str, object]) -> None:
        """Put the figures into ``metrics.json``, beside those of the other stages."""
        metrics = orjson.loads(self.storage.read_bytes(METRICS_FILE) or b"{}")
        metrics[self.stage.name] = figures
        options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
        self.storage.write_bytes(METRICS_FILE, orjson.dumps(metrics, option=options))
