from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from local import LocalAws
from local.deploy import DeploymentFailed

BUCKET = "assets-${AWS::AccountId}-${AWS::Region}"
HANDLER = """
import json, os
import shared
def handle(event, context):
    return {"statusCode": 200, "body": json.dumps([event["rawPath"], os.environ["TABLE"], shared.WORD])}
"""


class Assembly:
    """Writes what `cdk synth` writes: a manifest, and per stack a template and its assets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._artifacts: dict[str, Any] = {}

    def a_stack(
        self,
        name: str,
        template: Mapping[str, Any],
        *,
        after: tuple[str, ...] = (),
        assets: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        files: dict[str, Any] = {}
        for asset, contents in (assets or {}).items():
            for path, text in contents.items():
                target = self.folder / f"asset.{asset}" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
            files[asset] = self._file(f"asset.{asset}", "zip", f"{asset}.zip")
        (self.folder / f"{name}.template.json").write_text(json.dumps(template))
        files[f"{name}-template"] = self._file(f"{name}.template.json", "file", f"{name}-{uuid.uuid4().hex}.json")
        (self.folder / f"{name}.assets.json").write_text(json.dumps({"files": files}))
        key = files[f"{name}-template"]["destinations"]["here"]["objectKey"]
        self._artifacts[f"{name}.assets"] = {
            "type": "cdk:asset-manifest",
            "properties": {"file": f"{name}.assets.json"},
        }
        self._artifacts[name] = {
            "type": "aws:cloudformation:stack",
            "properties": {
                "templateFile": f"{name}.template.json",
                "stackTemplateAssetObjectUrl": f"s3://{BUCKET}/{key}",
            },
            "dependencies": [*after, f"{name}.assets"],
        }
        (self.folder / "manifest.json").write_text(json.dumps({"artifacts": self._artifacts}))

    def _file(self, path: str, packaging: str, key: str) -> dict[str, Any]:
        return {
            "source": {"path": path, "packaging": packaging},
            "destinations": {"here": {"bucketName": BUCKET, "objectKey": key}},
        }


@pytest.fixture
def assembly(tmp_path: Path) -> Assembly:
    return Assembly(tmp_path)


def the_data(*, ttl: bool = False) -> dict[str, Any]:
    table: dict[str, Any] = {
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "BillingMode": "PAY_PER_REQUEST",
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
    }
    if ttl:
        table["TimeToLiveSpecification"] = {"AttributeName": "expires_at", "Enabled": True}
    return {
        "Resources": {"Table": {"Type": "AWS::DynamoDB::Table", "Properties": table}},
        "Outputs": {"TableName": {"Value": {"Ref": "Table"}, "Export": {"Name": "the-table"}}},
    }


def the_api() -> dict[str, Any]:
    asset = {"S3Bucket": {"Fn::Sub": BUCKET}}
    return {
        "Parameters": {"Colour": {"Type": "String"}, "InstanceIdentityCertificate": {"Type": "String"}},
        "Resources": {
            "Role": {
                "Type": "AWS::IAM::Role",
                "Properties": {
                    "AssumeRolePolicyDocument": {
                        "Statement": [
                            {
                                "Effect": "Allow",
                                "Principal": {"Service": "lambda.amazonaws.com"},
                                "Action": "sts:AssumeRole",
                            }
                        ]
                    }
                },
            },
            "Layer": {
                "Type": "AWS::Lambda::LayerVersion",
                "Properties": {"Content": {**asset, "S3Key": "layer.zip"}, "CompatibleRuntimes": ["python3.13"]},
            },
            "Function": {
                "Type": "AWS::Lambda::Function",
                "Properties": {
                    "Runtime": "python3.13",
                    "Handler": "index.handle",
                    "Role": {"Fn::GetAtt": ["Role", "Arn"]},
                    "Code": {**asset, "S3Key": "function.zip"},
                    "Layers": [{"Ref": "Layer"}],
                    "Environment": {"Variables": {"TABLE": {"Fn::ImportValue": "the-table"}}},
                },
            },
            "Api": {"Type": "AWS::ApiGatewayV2::Api", "Properties": {"Name": "api", "ProtocolType": "HTTP"}},
            "Integration": {
                "Type": "AWS::ApiGatewayV2::Integration",
                "Properties": {
                    "ApiId": {"Ref": "Api"},
                    "IntegrationType": "AWS_PROXY",
                    "IntegrationUri": {"Fn::GetAtt": ["Function", "Arn"]},
                    "PayloadFormatVersion": "2.0",
                },
            },
            "Route": {
                "Type": "AWS::ApiGatewayV2::Route",
                "Properties": {
                    "ApiId": {"Ref": "Api"},
                    "RouteKey": "ANY /api/{proxy+}",
                    "Target": {"Fn::Join": ["/", ["integrations", {"Ref": "Integration"}]]},
                },
            },
            "Stage": {
                "Type": "AWS::ApiGatewayV2::Stage",
                "Properties": {"ApiId": {"Ref": "Api"}, "StageName": "$default", "AutoDeploy": True},
            },
            "Url": {
                "Type": "AWS::SSM::Parameter",
                "Properties": {
                    "Name": "/test/api-url",
                    "Type": "String",
                    "Value": {"Fn::Sub": "https://${Api}.execute-api.${AWS::Region}.${AWS::URLSuffix}"},
                },
            },
        },
        "Outputs": {
            "ApiUrl": {"Value": {"Fn::Sub": "https://${Api}.execute-api.${AWS::Region}.${AWS::URLSuffix}"}},
            "Colour": {"Value": {"Ref": "Colour"}},
            "Certificate": {"Value": {"Ref": "InstanceIdentityCertificate"}},
        },
    }


def test_stacks_are_deployed_in_order_and_the_api_is_reachable(aws: LocalAws, assembly: Assembly) -> None:
    assets = {"function": {"index.py": HANDLER}, "layer": {"python/shared.py": "WORD = 'shared'"}}
    assembly.a_stack("the-api", the_api(), after=("the-data",), assets=assets)
    assembly.a_stack("the-data", the_data())
    outputs = aws.deploy(assembly.folder, parameters={"Colour": "blue"})
    assert outputs["Colour"] == "blue"
    assert outputs["Certificate"] == aws.identity_certificate
    answer = httpx.get(f"{outputs['ApiUrl']}/api/some/where", trust_env=False)
    assert answer.json() == ["/api/some/where", outputs["TableName"], "shared"]
    kept = aws.client("ssm").get_parameter(Name="/test/api-url")["Parameter"]["Value"]
    assert kept == outputs["ApiUrl"]
    dynamodb = aws.client("dynamodb")
    recovery = dynamodb.describe_continuous_backups(TableName=outputs["TableName"])["ContinuousBackupsDescription"]
    assert recovery["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    assert aws.deploy(assembly.folder, parameters={"Colour": "blue"}) == outputs


def test_a_failed_stack_says_which_resource_and_why(aws: LocalAws, assembly: Assembly) -> None:
    broken = {"Resources": {"Wrong": {"Type": "AWS::Nothing::AtAll", "Properties": {}}}}
    assembly.a_stack("broken", broken)
    with pytest.raises(DeploymentFailed, match="broken.*AWS::Nothing::AtAll|broken.*Wrong"):
        aws.deploy(assembly.folder)


def test_a_parameter_that_no_stack_declares_is_refused(aws: LocalAws, assembly: Assembly) -> None:
    assembly.a_stack(f"small-{uuid.uuid4().hex[:6]}", the_data(ttl=True))
    with pytest.raises(DeploymentFailed, match="no stack declares the parameter Color"):
        aws.deploy(assembly.folder, parameters={"Color": "blue"})
