"""CloudFormation: TTL, point-in-time recovery and HTTP-API CORS are deployed, not dropped."""
# ruff: noqa: SLF001 - patches the emulator's insides, by design

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ministack.services.cloudformation.provisioners as provisioners
from ministack.services import dynamodb

from local.patches.rewriting import wrap

type Properties = Mapping[str, Any]


def apply() -> None:
    """Patch CloudFormation."""
    wrap("table TTL and PITR", provisioners, "_ddb_create", "(logical_id, props, stack_name)", _with_ttl_and_recovery)
    wrap("HTTP API CORS", provisioners, "_apigw_v2_api_create", "(logical_id, props, stack_name)", _with_cors)
    handlers = provisioners._RESOURCE_HANDLERS
    handlers["AWS::DynamoDB::Table"]["create"] = provisioners._ddb_create
    handlers["AWS::ApiGatewayV2::Api"]["create"] = provisioners._apigw_v2_api_create


def _with_ttl_and_recovery(original: Any) -> Any:
    def create(logical_id: str, props: Properties, stack_name: str) -> Any:
        created = original(logical_id, props, stack_name)
        ttl = props.get("TimeToLiveSpecification")
        if ttl:
            specification = {"AttributeName": ttl["AttributeName"], "Enabled": _is_true(ttl.get("Enabled", True))}
            dynamodb._update_ttl({"TableName": created[0], "TimeToLiveSpecification": specification})
        recovery = props.get("PointInTimeRecoverySpecification") or {}
        if _is_true(recovery.get("PointInTimeRecoveryEnabled", False)):
            dynamodb._update_continuous_backups(
                {"TableName": created[0], "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True}}
            )
        return created

    return create


def _with_cors(original: Any) -> Any:
    def create(logical_id: str, props: Properties, stack_name: str) -> Any:
        cors = props.get("CorsConfiguration")
        if not cors:
            return original(logical_id, props, stack_name)
        configuration = {key[0].lower() + key[1:]: value for key, value in cors.items()}
        if "maxAge" in configuration:
            configuration["maxAge"] = int(configuration["maxAge"])
        return original(logical_id, {**props, "CorsConfiguration": configuration}, stack_name)

    return create


def _is_true(value: object) -> bool:
    return str(value).lower() == "true"
