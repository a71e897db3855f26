"""Parts: the committed rows of one unit after one segment, with their account in the footer.

The part's existence under its final name is the only truth about a unit being done. Every
attempt at a unit writes the same name, so that repeating one is harmless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.rows import kept
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.account import StageAccount

_FOOTER_KEY = b"ray_pipeline"


@dataclass(frozen=True)
class PartInfo:
    """What a part's footer says about how it came to be."""

    #: Identity of the stages that made it.
    fingerprint: str
    #: Digest of the rows they read; of the unit itself where they read the source.
    input_digest: str
    #: Digest of the kept rows: what the next segment reads.
    digest: str
    rows: int
    accounts: list[StageAccount]


def part_path(folder: str, unit_id: str) -> str:
    """Where a segment's part of a unit lies, relative to the run directory."""
    return f"{folder}/rows/part-{unit_id}.parquet"


def write_part(
    storage: Storage,
    path: str,
    rows: pa.Table,
    *,
    fingerprint: str,
    input_digest: str,
    accounts: list[StageAccount],
    durable: bool = False,
) -> PartInfo:
    """Commit a unit: one rename puts its rows, account and fingerprint under the final name."""
    info = PartInfo(fingerprint, input_digest, _digest(kept(rows)), rows.num_rows, accounts)
    footer = {
        "fingerprint": info.fingerprint,
        "input_digest": info.input_digest,
        "digest": info.digest,
        "accounts": [account.to_json() for account in accounts],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows.replace_schema_metadata({_FOOTER_KEY: orjson.dumps(footer)}),
        sink,
        compression="zstd",
    )
    storage.write_bytes(path, sink.getvalue(), durable=durable)
    return info


def _digest(rows: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema.remove_metadata()) as writer:
        writer.write_table(rows.replace_schema_metadata(None).combine_chunks())
    return hashlib.blake2b(sink.getvalue(), digest_size=16).hexdigest()


def read_info(storage: Storage, path: str) -> PartInfo | None:
    """A part's footer, or None when there is no part, or one that a power loss left torn."""
    try:
        with storage.open(path) as file:
            metadata = pq.read_metadata(file)
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    except OSError as error:
        raise RunError(f"cannot read {storage.uri(path)}: {error}") from error
    return info_of(metadata)


def open_part(storage: Storage, path: str) -> pq.ParquetFile | None:
    """A part to read from more than once; None where `read_info` would return None."""
    try:
        return pq.ParquetFile(storage.open(path))
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    except OSError as error:
        raise RunError(f"cannot read {storage.uri(path)}: {error}") from error


def info_of(metadata: pq.FileMetaData) -> PartInfo:
    """What a part's footer says, once it has been read."""
    footer = orjson.loads(metadata.metadata[_FOOTER_KEY])
    return PartInfo(
        fingerprint=footer["fingerprint"],
        input_digest=footer["input_digest"],
        digest=footer["digest"],
        rows=metadata.num_rows,
        accounts=[StageAccount.from_json(account) for account in footer["accounts"]],
    )


def read_infos(storage: Storage, folder: str, unit_ids: Sequence[str]) -> list[PartInfo | None]:
    """The footers of a segment's parts of some units; None where there is no part."""
    with ThreadPoolExecutor(16) as threads:
        paths = [part_path(folder, unit_id) for unit_id in unit_ids]
        return list(threads.map(lambda path: read_info(storage, path), paths))


def read_rows(storage: Storage, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of a part, kept, dropped and failed ones; all columns, or those named."""
    try:
        with storage.open(path) as file:
            return pq.read_table(file, columns=columns and list(columns)).replace_schema_metadata(
                None
            )
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"cannot read {storage.uri(path)}: {error}") from error
