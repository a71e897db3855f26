"""Runs an artifact stage: reuses or makes its files, and records its figures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.hashing import fingerprint
from ray_pipeline.core.storage import Storage, StoredFile
from ray_pipeline.engine.segments import Segment
from ray_pipeline.rundir.checksums import Damaged, DamagedFile, checked_json, json_with_checksum
from ray_pipeline.rundir.layout import EXPORTS, METRICS_FILE, part_path, work_folder
from ray_pipeline.rundir.manifest import (
    differences,
    files_at,
    record_files,
    recorded_files,
)
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.rundir.unreadable import tell
from ray_pipeline.stage import ArtifactStage, Workplace


def check_stages(segments: Sequence[Segment]) -> None:
    """Let each stage that is to run check its configuration.

    Raises:
        UserError: a stage cannot work with its configuration; the message names the stage.
    """
    for segment in segments:
        for stage in segment.stages:
            try:
                stage.check()
            except UserError as error:
                raise UserError(f"stages.{stage.name}: {error}") from None


@dataclass(frozen=True)
class Artifact:
    """The artifact of one segment."""

    storage: Storage
    segment: Segment

    @property
    def stage(self) -> ArtifactStage:
        """The artifact stage, which is the only stage of its segment."""
        (stage,) = self.segment.stages
        assert isinstance(stage, ArtifactStage)
        return stage

    def is_there(self) -> bool:
        """Whether all files that the stage makes are in the run directory, and its figures."""
        files_are_there = all(self.storage.exists(path) for path in self.stage.makes)
        return files_are_there and self.stage.name in self._metrics()

    def _metrics(self) -> dict[str, object]:
        """The content of ``metrics.json``; where it is damaged, no figures are there."""
        raw = self.storage.read_bytes(METRICS_FILE)
        try:
            return {} if raw is None else checked_json(raw)
        except Damaged as error:
            tell(self.storage, METRICS_FILE, error)
            return {}

    def make(
        self,
        rows_folder: str,
        unit_ids: Sequence[str],
        input_digest: str,
        say: Callable[[str], None],
    ) -> str:
        """Make the artifact; returns a digest of what later stages depend on.

        Work that a killed attempt left is kept for the stage to resume, if it had the same rows
        and configuration; otherwise it is deleted first. A stage that is limited to some sources
        makes its artifact again only when their rows have changed.

        Args:
            rows_folder: folder of the segment whose rows the stage reads.
            unit_ids: the units to read.
            input_digest: digest of their rows.
            say: called with lines on the progress.

        Raises:
            RunError: the stage failed, or storage did.
        """
        identity = fingerprint([self.segment.fingerprint, input_digest])
        folder, marker = work_folder(self.segment.folder), f"{self.segment.folder}/identity"
        made = f"{self.segment.folder}/made"
        if self.stage.sources is not None and self.is_there():
            # Only rows of other sources changed, or the whole segment would have been reused.
            content = (self.storage.read_bytes(made) or b"").decode(errors="replace")
            old_identity, _, digest = content.partition(" ")
            if old_identity == identity:
                return digest
        self.storage.delete(made)
        if self.storage.read_bytes(marker) != identity.encode():
            self.storage.delete_folder(folder)
            self.storage.write_bytes(marker, identity.encode())
        paths = tuple(part_path(rows_folder, unit_id) for unit_id in unit_ids)
        rows = StoredRows(self.storage, paths, input_digest)
        say(f"making {self.stage.name}")
        place = Workplace(self.storage, folder, say)
        before = {file.path: file for file in self._files()}
        figures = self.stage.make(rows, place)
        self._record(figures)
        self._record_files(before)
        outcome = self.stage.outcome(place)
        digest = identity if outcome is None else fingerprint([identity, outcome])
        if self.stage.sources is not None:
            self.storage.write_bytes(made, f"{identity} {digest}".encode())
        return digest

    def damages(self) -> list[str]:
        """Files of the artifact that are not what was written, each with what is wrong.

        Raises:
            DamagedFile: the list of files is damaged.
        """
        recorded = recorded_files(self.storage)
        mine = {path: file for path, file in recorded.items() if file.stage == self.stage.name}
        return [f"{path} {how}" for path, how in differences(self.storage, mine)]

    def _files(self) -> Iterator[StoredFile]:
        """The files in the folders of those that the stage makes; other stages' among them."""
        folders = {path.rpartition("/")[0] or path for path in self.stage.makes}
        for folder in sorted(folders):
            yield from files_at(self.storage, folder)

    def _record_files(self, before: Mapping[str, StoredFile]) -> None:
        """Record what the files are that the stage has written, now or in an earlier attempt."""
        with contextlib.suppress(DamagedFile):
            known = recorded_files(self.storage)
            mine = (
                file
                for file in self._files()
                if before.get(file.path) != file
                or (file.path not in known and self._is_own(file.path))
            )
            record_files(self.storage, mine, self.stage.name)

    def _is_own(self, path: str) -> bool:
        """Whether no other stage writes this file. The folder of exports is everybody's."""
        return path in self.stage.makes or not path.startswith(f"{EXPORTS}/")

    def _record(self, figures: dict[str, object]) -> None:
        """Add the figures to ``metrics.json``, which holds those of the other stages."""
        metrics = self._metrics() | {self.stage.name: figures}
        self.storage.write_bytes(METRICS_FILE, json_with_checksum(metrics))
