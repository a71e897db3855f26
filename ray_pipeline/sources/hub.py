"""Downloads data sets of the Hugging Face hub."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import pyarrow as pa

from ray_pipeline.core.errors import UserError
from ray_pipeline.sources.format import SourceFile
from ray_pipeline.sources.parquet import ArrowStream
from ray_pipeline.sources.staging import publish, staged_uri

_BATCH_ROWS = 1000


def fetch(path: str, split: str | None, scratch: str) -> SourceFile:
    """Download a data set of the hub to a folder, as one Arrow stream.

    Args:
        path: ``hf://NAME``, ``hf://OWNER/NAME`` or ``hf://OWNER/NAME/CONFIGURATION``.
        split: name of the split; None where there is only one.
        scratch: URI of the folder for the copy.

    Raises:
        UserError: the hub has no such data set or cannot be reached, or the split is wrong.
    """
    data_set = _load(path, split)
    name = hashlib.sha256(f"{path}:{split}".encode()).hexdigest()
    uri = staged_uri(scratch, f"hub-{name}.arrow")
    schema = data_set.features.arrow_schema.remove_metadata()
    # Written on every call: the data on the hub may have changed, and its content is its identity.
    with publish(uri) as out, pa.ipc.new_stream(cast(Any, out), schema) as writer:
        for table in data_set.with_format("arrow").iter(batch_size=_BATCH_ROWS):
            writer.write_table(table.combine_chunks().cast(schema))
    return SourceFile(uri, ArrowStream())


def _load(path: str, split: str | None) -> Any:
    import datasets  # takes seconds to import, and only this needs it

    parts = path.removeprefix("hf://").strip("/").split("/")
    name, configuration = "/".join(parts[:2]), "/".join(parts[2:]) or None
    try:
        loaded = datasets.load_dataset(name, configuration, split=split)
    except (OSError, ValueError) as error:
        raise UserError(
            f"source {path}: the hub gave no such data set, or cannot be reached from here "
            f"(HF_HUB_OFFLINE?): {error}. Check the name and the split, or save the data set to "
            "a folder with save_to_disk and name the folder"
        ) from None
    if split is not None:
        return loaded
    if len(loaded) != 1:
        raise UserError(
            f"source {path}: it has the splits {', '.join(loaded)}: set source.split to one"
        )
    return next(iter(loaded.values()))
