"""Deploy a CDK cloud assembly with boto3 alone: no CDK CLI, no bootstrap, the same template as on AWS."""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from botocore.exceptions import ClientError

_BOOTSTRAP_VERSION_PARAMETER = "/cdk-bootstrap/hnb659fds/version"
_CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
_IDENTITY_CERTIFICATE = "IdentityCertificate"
_POLL_SECONDS = 0.1
_API_HOST = re.compile(r"https?://(?P<api>[a-z0-9]+)\.execute-api\.[a-z0-9.-]+(?::\d+)?(?P<path>[^\s\"']*)")


class DeploymentFailed(Exception):
    """A stack was not created or updated; the message names the resource and its reason."""


class Aws(Protocol):
    """The account that is deployed to."""

    endpoint_url: str
    region: str
    account_id: str
    identity_certificate: str

    def client(self, service: str) -> Any: ...


@dataclass(frozen=True)
class _Stack:
    artifact_id: str
    name: str
    template: Path
    template_url: str
    dependencies: tuple[str, ...]
    tags: Mapping[str, str]


def deploy_assembly(aws: Aws, assembly: Path, parameters: Mapping[str, str]) -> dict[str, str]:
    """Publish the assets of an assembly, then create or update its stacks.

    Args:
        aws: Where to.
        assembly: The folder that `cdk synth` wrote.
        parameters: CloudFormation parameters; each stack takes those that it declares. A stack that declares
            `…IdentityCertificate` gets the account's own unless it is given here.

    Returns:
        The outputs of all stacks, merged.

    Raises:
        DeploymentFailed: A stack failed, or a parameter is declared by no stack.
    """
    manifest = json.loads((assembly / "manifest.json").read_text())
    _mark_as_bootstrapped(aws)
    for asset_manifest in _of_type(manifest, "cdk:asset-manifest"):
        _publish(aws, assembly, json.loads((assembly / asset_manifest["properties"]["file"]).read_text()))
    stacks = list(_in_order(_stacks(aws, assembly, manifest)))
    _refuse_unknown(parameters, stacks)
    # What AWS publishes for each of its regions, this AWS knows of itself.
    own = {name: aws.identity_certificate for name in _declared(stacks) if name.endswith(_IDENTITY_CERTIFICATE)}
    given = {**own, **parameters}
    outputs: dict[str, str] = {}
    for stack in stacks:
        outputs |= _deploy_stack(aws, stack, given)
    _make_api_urls_reachable(aws, stacks)
    return {name: _reachable(value, aws.endpoint_url) for name, value in outputs.items()}


def _of_type(manifest: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    return [{"id": name, **artifact} for name, artifact in manifest["artifacts"].items() if artifact["type"] == kind]


def _stacks(aws: Aws, assembly: Path, manifest: Mapping[str, Any]) -> dict[str, _Stack]:
    stacks = {}
    for artifact in _of_type(manifest, "aws:cloudformation:stack"):
        properties = artifact["properties"]
        url = _filled_in(aws, str(properties.get("stackTemplateAssetObjectUrl", "")))
        stacks[artifact["id"]] = _Stack(
            artifact_id=artifact["id"],
            name=properties.get("stackName", artifact["id"]),
            template=assembly / properties["templateFile"],
            # s3://bucket/key -> the same object at this endpoint
            template_url=f"{aws.endpoint_url}/{url.removeprefix('s3://')}",
            dependencies=tuple(artifact.get("dependencies", ())),
            tags=dict(properties.get("tags", {})),
        )
    return stacks


def _in_order(stacks: Mapping[str, _Stack]) -> Iterator[_Stack]:
    done: set[str] = set()
    waiting = dict(stacks)
    while waiting:
        for artifact_id, stack in list(waiting.items()):
            if all(each in done or each not in stacks for each in stack.dependencies):
                done.add(artifact_id)
                yield waiting.pop(artifact_id)
                break
        else:
            raise DeploymentFailed(f"these stacks depend on each other: {', '.join(waiting)}")


def _refuse_unknown(parameters: Mapping[str, str], stacks: list[_Stack]) -> None:
    declared = _declared(stacks)
    unknown = sorted(set(parameters) - declared)
    if unknown:
        raise DeploymentFailed(
            f"no stack declares the parameter {', '.join(unknown)}; there are {', '.join(sorted(declared))}"
        )


def _declared(stacks: list[_Stack]) -> set[str]:
    return {name for stack in stacks for name in _declared_parameters(stack)}


def _declared_parameters(stack: _Stack) -> set[str]:
    return set(json.loads(stack.template.read_text()).get("Parameters", {}))


def _mark_as_bootstrapped(aws: Aws) -> None:
    aws.client("ssm").put_parameter(Name=_BOOTSTRAP_VERSION_PARAMETER, Value="30", Type="String", Overwrite=True)


def _publish(aws: Aws, assembly: Path, assets: Mapping[str, Any]) -> None:
    s3 = aws.client("s3")
    for asset in assets.get("files", {}).values():
        source = assembly / asset["source"]["path"]
        for destination in asset["destinations"].values():
            bucket, key = _filled_in(aws, destination["bucketName"]), destination["objectKey"]
            _make_bucket(s3, bucket)
            if not _has_object(s3, bucket, key):
                body = _zipped(source) if asset["source"]["packaging"] == "zip" else source.read_bytes()
                s3.put_object(Bucket=bucket, Key=key, Body=body)


def _filled_in(aws: Aws, text: str) -> str:
    return (
        text.replace("${AWS::AccountId}", aws.account_id)
        .replace("${AWS::Region}", aws.region)
        .replace("${AWS::Partition}", "aws")
    )


def _make_bucket(s3: Any, bucket: str) -> None:
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError:
        s3.create_bucket(Bucket=bucket)


def _has_object(s3: Any, bucket: str, key: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError:
        return False
    return True


def _zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


def _deploy_stack(aws: Aws, stack: _Stack, parameters: Mapping[str, str]) -> dict[str, str]:
    cloudformation = aws.client("cloudformation")
    request: dict[str, Any] = {
        "StackName": stack.name,
        "TemplateURL": stack.template_url,
        "Capabilities": _CAPABILITIES,
        "Parameters": [
            {"ParameterKey": name, "ParameterValue": value}
            for name, value in parameters.items()
            if name in _declared_parameters(stack)
        ],
        "Tags": [{"Key": key, "Value": value} for key, value in stack.tags.items()],
    }
    try:
        if _exists(cloudformation, stack.name):
            cloudformation.update_stack(**request)
        else:
            cloudformation.create_stack(**request)
    except ClientError as error:
        if "No updates are to be performed" not in error.response["Error"]["Message"]:
            raise DeploymentFailed(f"{stack.name}: {error.response['Error']['Message']}") from error
    described = _await_stack(cloudformation, stack.name)
    if described["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        raise DeploymentFailed(f"{stack.name} is {described['StackStatus']}: {_reasons(cloudformation, described)}")
    return {
        output["OutputKey"]: output["OutputValue"]
        for output in described.get("Outputs", [])
        if not output["OutputKey"].startswith("ExportsOutput")  # what CDK passes from stack to stack
    }


def _exists(cloudformation: Any, name: str) -> bool:
    try:
        stacks = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError:
        return False
    return bool(stacks[0]["StackStatus"] != "DELETE_COMPLETE")


def _await_stack(cloudformation: Any, name: str) -> dict[str, Any]:
    while True:
        stack: dict[str, Any] = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        if not stack["StackStatus"].endswith("IN_PROGRESS"):
            return stack
        time.sleep(_POLL_SECONDS)


def _reasons(cloudformation: Any, stack: Mapping[str, Any]) -> str:
    events = cloudformation.describe_stack_events(StackName=stack["StackName"])["StackEvents"]
    failures = [
        f"{event['LogicalResourceId']}: {event['ResourceStatusReason']}"
        for event in events
        if event["ResourceStatus"].endswith("FAILED") and event.get("ResourceStatusReason")
    ]
    return "; ".join(failures) or stack.get("StackStatusReason", "no reason given")


def _make_api_urls_reachable(aws: Aws, stacks: list[_Stack]) -> None:
    """Write local URLs into the SSM parameters that hold an API's URL: `<id>.execute-api.…` resolves nowhere here."""
    cloudformation, ssm = aws.client("cloudformation"), aws.client("ssm")
    for stack in stacks:
        for resource in cloudformation.describe_stack_resources(StackName=stack.name)["StackResources"]:
            if resource["ResourceType"] != "AWS::SSM::Parameter":
                continue
            name = resource["PhysicalResourceId"]
            value = ssm.get_parameter(Name=name)["Parameter"]["Value"]
            if (reachable := _reachable(value, aws.endpoint_url)) != value:
                ssm.put_parameter(Name=name, Value=reachable, Type="String", Overwrite=True)


def _reachable(value: str, endpoint_url: str) -> str:
    return _API_HOST.sub(lambda url: f"{endpoint_url}/_aws/execute-api/{url['api']}{url['path']}".rstrip("/"), value)
