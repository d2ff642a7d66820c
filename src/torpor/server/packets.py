"""Payload packets: a value travels as text with a type, and is kept as plain JSON text.

`application/super+json` is what the official client makes of every value that isn't a string: `{"json": …, "meta": …}`.
Its `meta` says which strings were dates or sets in JavaScript; a Python task declares that in its own annotations, so
the `json` member alone is kept.
"""

import msgspec

from torpor.server.errors import Refused

STORED = "application/store"
"""The type of a payload that was uploaded before: the packet is its path (uploads.py)."""


class _SuperJson(msgspec.Struct):
    json: msgspec.Raw


_super_json = msgspec.json.Decoder(_SuperJson)
_text = msgspec.json.Decoder(str)
_anything = msgspec.json.Decoder()


def payload_text(raw: msgspec.Raw | msgspec.UnsetType | None, data_type: str | None) -> str | None:
    """The payload as JSON text, or None when there is none; 400 when the packet can't be read.

    `raw` is the request's `payload` member as it stands in the body.
    """
    if raw is None or raw is msgspec.UNSET:
        return None
    body = bytes(raw)
    match "application/json" if data_type is None else data_type:
        case "application/json":
            return _checked(body)
        case "text/plain":
            return msgspec.json.encode(_packet_data(body, "text/plain")).decode()
        case "application/super+json":
            return _plain(_packet_data(body, "application/super+json").encode() if body[:1] == b'"' else body)
        case other:
            raise Refused(400, f"options.payloadType: {other!r} is not a payload type")


def uploaded_text(body: bytes, data_type: str) -> str:
    """An uploaded packet, which is its own text, as JSON text; 400 when it can't be read."""
    match data_type:
        case "application/json":
            return _checked(body)
        case "text/plain":
            try:
                return msgspec.json.encode(body.decode()).decode()
            except UnicodeDecodeError:
                raise Refused(400, "the upload is text/plain, and not in UTF-8") from None
        case "application/super+json":
            return _plain(body)
        case other:
            raise Refused(400, f"content-type: {other!r} is not a payload type")


def stored_path(raw: msgspec.Raw | msgspec.UnsetType | None) -> str:
    """Where a payload was uploaded to."""
    path = "" if raw is None or raw is msgspec.UNSET else _packet_data(bytes(raw), STORED)
    if not path:
        raise Refused(400, f"payload must be the path of an upload when payloadType is {STORED}")
    return path


def _plain(text: bytes) -> str:
    try:
        return _checked(bytes(_super_json.decode(text).json))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"payload is not application/super+json: {error}") from None


def _checked(body: bytes) -> str:
    """A raw member is skipped unread, and what is kept must be whole: JSON, in UTF-8, of a sane depth."""
    try:
        _anything.decode(body)
        return body.decode()
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refused(400, f"payload is not JSON: {error}") from None


def _packet_data(body: bytes, data_type: str) -> str:
    try:
        return _text.decode(body)
    except msgspec.DecodeError:
        raise Refused(400, f"payload must be a string when payloadType is {data_type}") from None
