"""An object that is written only if it is still as it was read: what a lock needs of storage.

S3 and servers with its protocol take conditions with a write (``If-None-Match``, ``If-Match``):
of two writers that saw the same state, one succeeds. Other storage, and servers that ignore the
conditions, get the best order of plain reads and writes: see `PlainObject`.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import time
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.references import login_of
from ray_pipeline.core.storage import Storage

#: Seconds until a connection or a reply is given up, and the number of tries.
_CONNECT_SECONDS, _READ_SECONDS, _TRIES = 5, 10, 3
#: Plain storage: seconds after which a write of another process, begun before ours, has ended.
SETTLE_SECONDS = 10.0


@dataclass(frozen=True)
class Seen:
    """An object as it was read.

    Attributes:
        data: its content.
        tag: its version; changes with every write of another content.
        age: seconds since it was written, by the clock of the storage alone; None: not known.
    """

    data: bytes
    tag: str
    age: float | None


class GuardedObject(Protocol):
    """An object that is created and replaced under a condition. All methods raise RunError."""

    #: Whether the storage checks the conditions.
    is_conditional: bool

    def read(self) -> Seen | None:
        """The object; None: there is none."""

    def create(self, data: bytes) -> str | None:
        """Write it unless it exists; returns its tag, or None where it exists."""

    def replace(self, data: bytes, tag: str) -> str | None:
        """Write it if it has a tag; returns the new one; None: it has another or is gone."""

    def delete(self, tag: str) -> None:
        """Delete it if it has a tag."""


def guarded_object(storage: Storage, path: str) -> GuardedObject:
    """The object at a path, with the conditions of its storage if it has any."""
    if storage.scheme == "s3" and (client := _client(storage)) is not None:
        bucket, _, key = storage.full_path(path).partition("/")
        return S3Object(client, bucket, key, storage.uri(path))
    return PlainObject(storage, path)


def _client(storage: Storage) -> Any:
    """A client of the bucket's server; None where it finds no credentials, or no region."""
    import botocore.session  # takes a third of a second to import, and few commands need it
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    query = {name: values[-1] for name, values in parse_qs(urlsplit(storage.root).query).items()}
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if endpoint is None and (host := query.get("endpoint_override")):
        endpoint = f"{query.get('scheme', 'https')}://{host}"
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
    )
    try:
        session = botocore.session.get_session()
        if (login := login_of(storage.root)) is not None:
            session.set_credentials(*login)
        if session.get_credentials() is None:
            return None
        region = query.get("region") or session.get_config_variable("region") or "us-east-1"
        return session.create_client("s3", region, endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError):
        return None


class S3Object:
    """A `GuardedObject` whose conditions the server checks."""

    is_conditional = True

    def __init__(self, client: Any, bucket: str, key: str, uri: str) -> None:
        self._client = client
        self._place = {"Bucket": bucket, "Key": key}
        self._uri = uri

    def read(self) -> Seen | None:
        """See `GuardedObject`. The age is the server's time of the reply less that of the write."""
        reply = self._call("read", "get_object")
        if reply is None:
            return None
        age = None
        if (date := reply["ResponseMetadata"]["HTTPHeaders"].get("date")) is not None:
            now = email.utils.parsedate_to_datetime(date)
            age = max(0.0, (now - reply["LastModified"]).total_seconds())
        return Seen(reply["Body"].read(), reply["ETag"], age)

    def create(self, data: bytes) -> str | None:
        """See `GuardedObject`."""
        return self._put(data, IfNoneMatch="*")

    def replace(self, data: bytes, tag: str) -> str | None:
        """See `GuardedObject`."""
        return self._put(data, IfMatch=tag)

    def delete(self, tag: str) -> None:
        """See `GuardedObject`."""
        self._call("delete", "delete_object", IfMatch=tag)

    def _put(self, data: bytes, **condition: str) -> str | None:
        reply = self._call("write", "put_object", Body=data, **condition)
        return None if reply is None else str(reply["ETag"])

    def _call(self, verb: str, method: str, **arguments: Any) -> Any:
        """Call a method; None where the condition does not hold, or the object is gone."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client, method)(**self._place, **arguments)
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            code = error.response.get("Error", {}).get("Code")
            # 409: two conditional writes at the same moment, of which this one lost.
            if status in (409, 412) or code == "NoSuchKey":
                return None
            raise RunError(f"cannot {verb} {self._uri}: {error}") from error
        except (BotoCoreError, OSError) as error:
            raise RunError(f"cannot {verb} {self._uri}: {error}") from error


class PlainObject:
    """A `GuardedObject` on storage that checks no condition.

    Whoever writes waits until a write of another that began earlier has ended, and reads again:
    of two that both wrote, the one whose content is there has won. This holds where no write takes
    longer than `SETTLE_SECONDS`.
    """

    is_conditional = False

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path

    def read(self) -> Seen | None:
        """See `GuardedObject`. The age is not known: clocks of machines differ."""
        data = self._storage.read_bytes(self._path)
        return None if not data else Seen(data, _digest(data), None)

    def create(self, data: bytes) -> str | None:
        """See `GuardedObject`."""
        return None if self.read() is not None else self._write_and_settle(data)

    def replace(self, data: bytes, tag: str) -> str | None:
        """See `GuardedObject`."""
        seen = self.read()
        if seen is None or seen.tag != tag:
            return None
        self._storage.write_bytes(self._path, data)
        return _digest(data)

    def take(self, data: bytes, tag: str) -> str | None:
        """As `replace`, for an object of another process: waits as `create` does."""
        seen = self.read()
        return None if seen is None or seen.tag != tag else self._write_and_settle(data)

    def _write_and_settle(self, data: bytes) -> str | None:
        self._storage.write_bytes(self._path, data)
        return self.settled(data)

    def settled(self, data: bytes) -> str | None:
        """The tag of what was written, if it is still there once earlier writes have ended."""
        time.sleep(SETTLE_SECONDS)
        seen = self.read()
        return seen.tag if seen is not None and seen.data == data else None

    def delete(self, tag: str) -> None:
        """See `GuardedObject`."""
        seen = self.read()
        if seen is not None and seen.tag == tag:
            self._storage.delete(self._path)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
