"""EC2's query protocol, read and written by botocore's own model of the service.

Every wire name (`TagSpecification.1.Tag.1.Key`, `LaunchTemplateConfigs.1.LaunchTemplateSpecification.…`) therefore is
what the SDKs send, including members that no emulator has heard of.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import botocore.session
from botocore.model import ListShape, ServiceModel, Shape, StructureShape

from local.market.errors import Ec2Refusal

_NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"

type Tree = dict[str, "Tree | str"]
type HttpAnswer = tuple[int, dict[str, str], bytes]


@lru_cache(maxsize=1)
def ec2_model() -> ServiceModel:
    """The EC2 service model that ships with botocore. Loading it takes a good second of CPU time."""
    return botocore.session.Session().get_service_model("ec2")


def query_of(body: bytes, query: Mapping[str, list[str]]) -> dict[str, str]:
    """Merge the query string and the form body of a request into flat parameters."""
    flat = {name: values[0] for name, values in query.items() if values}
    flat.update(parse_qsl(body.decode(), keep_blank_values=True))
    return flat


def read_request(action: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Turn flat query parameters into the SDK's request structure."""
    tree: Tree = {}
    for name, value in query.items():
        *above, last = name.split(".")
        node = tree
        for part in above:
            below = node.setdefault(part, {})
            if not isinstance(below, dict):
                raise Ec2Refusal("InvalidParameter", f"The parameter {name} is both a value and a structure")
            node = below
        node[last] = value
    shape = ec2_model().operation_model(action).input_shape
    request: dict[str, Any] = _read(shape, tree) if shape is not None else {}
    return request


def _read(shape: Shape, node: Tree | str) -> Any:
    if isinstance(shape, StructureShape):
        if not isinstance(node, dict):
            raise Ec2Refusal("InvalidParameterValue", f"{shape.name} is a structure")
        return {
            name: _read(member, node[wire])
            for name, member in shape.members.items()
            if (wire := _wire_name(member, name)) in node
        }
    if isinstance(shape, ListShape):
        if not isinstance(node, dict):
            raise Ec2Refusal("InvalidParameterValue", f"{shape.name} is a numbered list")
        return [_read(shape.member, node[number]) for number in sorted(node, key=int)]
    if not isinstance(node, str):
        raise Ec2Refusal("InvalidParameterValue", f"{shape.name} is a single value")
    match shape.type_name:
        case "boolean":
            return node.lower() == "true"
        case "integer" | "long":
            return int(node)
        case "float" | "double":
            return float(node)
        case "timestamp":
            return read_timestamp(node)
        case _:
            return node


def _wire_name(shape: Shape, default: str) -> str:
    """As botocore's EC2 serializer names it."""
    if "queryName" in shape.serialization:
        return str(shape.serialization["queryName"])
    if "name" in shape.serialization:
        name = str(shape.serialization["name"])
        return name[0].upper() + name[1:]
    return default


def read_timestamp(text: str) -> datetime:
    """Read ISO 8601 as EC2 sends it; a time without a zone is UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def write_answer(action: str, answer: Mapping[str, Any]) -> HttpAnswer:
    """Write an SDK-shaped answer as EC2's XML."""
    shape = ec2_model().operation_model(action).output_shape
    inner = _write_members(shape, answer) if isinstance(shape, StructureShape) else "<return>true</return>"
    return (
        200,
        {"Content-Type": "text/xml;charset=UTF-8"},
        (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{_NAMESPACE}">'
            f"<requestId>{uuid.uuid4()}</requestId>{inner}</{action}Response>"
        ).encode(),
    )


def write_refusal(refusal: Ec2Refusal) -> HttpAnswer:
    """Write an error as EC2's XML."""
    return (
        refusal.status,
        {"Content-Type": "text/xml;charset=UTF-8"},
        (
            '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
            f"<Code>{escape(refusal.code)}</Code><Message>{escape(refusal.message)}</Message>"
            f"</Error></Errors><RequestID>{uuid.uuid4()}</RequestID></Response>"
        ).encode(),
    )


def _write_members(shape: StructureShape, value: Mapping[str, Any]) -> str:
    unknown = set(value) - set(shape.members)
    if unknown:
        raise KeyError(f"{shape.name} has no member {', '.join(sorted(unknown))}")
    return "".join(
        _write(member, member.serialization.get("name", name), value[name])
        for name, member in shape.members.items()
        if value.get(name) is not None
    )


def _write(shape: Shape, tag: str, value: Any) -> str:
    if isinstance(shape, StructureShape):
        inner = _write_members(shape, value)
    elif isinstance(shape, ListShape):
        item = shape.member.serialization.get("name", "item")
        inner = "".join(_write(shape.member, item, each) for each in value)
    elif isinstance(value, bool):
        inner = "true" if value else "false"
    elif isinstance(value, datetime):
        inner = value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03d}Z"
    else:
        inner = escape(str(value))
    return f"<{tag}>{inner}</{tag}>"
