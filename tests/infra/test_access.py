"""Who may do what. Each test states a limit; the embedded AWS, which enforces the roles, shows that they suffice."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.infra.conftest import Deployment, as_list

FUNCTIONS = (
    "Authorize",
    "AgentApi",
    "ReplicaApi",
    "SnapshotApi",
    "PriceApi",
    "FleetApi",
    "OperatorApi",
    "FailOverRole",
    "PrepareReplicaRole",
    "CollectPrices",
    "FillGapsRole",
    "SweepOrphansRole",
    "SwitchAgentsRole",
)

#: What each function that handles models may do with objects, below which prefix.
MODEL_OBJECTS = {
    "ModelApi": {("GetObject", "sessions"), ("PutObject", "sessions"), ("DeleteObject", "sessions")},
    "ActivateModel": {("GetObject", "sessions"), ("DeleteObject", "sessions"), ("GetObject", "scored")},
    "ScoreRisk": {("GetObject", "sessions"), ("PutObject", "scored")},
    "DecideFleet": {("GetObject", "sessions"), ("PutObject", "scored")},
}

#: Actions for which AWS knows no narrower resource, or whose resource does not exist before the call.
UNBOUNDED = (
    "xray:*",
    "ec2:Describe*",
    "ec2:CreateFleet",
    "elasticloadbalancing:Describe*",
    "pricing:GetProducts",
    "servicequotas:GetServiceQuota",
    "states:SendTaskSuccess",
    "logs:*LogDeliver*",
    "logs:*ResourcePolic*",
    "logs:Describe*",
)


def actions(statements: list[dict[str, Any]]) -> set[str]:
    return {action for statement in statements for action in as_list(statement["Action"])}


def statements_for(statements: list[dict[str, Any]], action: str) -> list[dict[str, Any]]:
    return [statement for statement in statements if action in as_list(statement["Action"])]


def resources(statement: dict[str, Any]) -> list[str]:
    return [str(resource) for resource in as_list(statement["Resource"])]


@pytest.mark.parametrize("stage", ["dev", "prod"])
def test_no_role_may_do_whatever_it_likes_with_a_service(request: pytest.FixtureRequest, stage: str) -> None:
    deployment: Deployment = request.getfixturevalue(stage)
    assert not [action for action in actions(deployment.all_statements()) if "*" in action]


def test_only_what_knows_nothing_narrower_is_allowed_on_everything(dev: Deployment) -> None:
    unbounded = [statement for statement in dev.all_statements() if "*" in as_list(statement["Resource"])]
    for action in actions(unbounded):
        assert any(fnmatchcase(action, pattern) for pattern in UNBOUNDED), action


def test_nobody_scans_a_table(dev: Deployment) -> None:
    allowed = actions(dev.all_statements())
    assert not {action for action in allowed if action.startswith(("dynamodb:Scan", "dynamodb:Batch"))}


def test_nothing_is_deleted_but_inferences_and_only_where_gaps_are_filled(dev: Deployment) -> None:
    assert [name for name in FUNCTIONS if "dynamodb:DeleteItem" in actions(dev.statements(name))] == ["FillGapsRole"]
    [statement] = statements_for(dev.all_statements(), "dynamodb:DeleteItem")
    [resource] = resources(statement)
    assert "PricingSnapshotsInterpolated" in resource


def test_only_agents_reports_the_collector_and_the_filling_write_prices(dev: Deployment) -> None:
    writing = [
        name
        for name in FUNCTIONS
        for statement in statements_for(dev.statements(name), "dynamodb:UpdateItem")
        if any("PricingSnapshotsClean" in resource for resource in resources(statement))
    ]
    assert writing == ["PriceApi", "CollectPrices", "FillGapsRole"]


@pytest.mark.parametrize("function", ["ReportApi", "DoctorApi"])
def test_what_only_looks_may_change_nothing(dev: Deployment, function: str) -> None:
    allowed = {
        action for action in actions(dev.statements(f"{function}Role")) if not action.startswith(("logs:", "xray:"))
    }
    looking = (
        *("dynamodb:GetItem", "dynamodb:Query", "ec2:Describe", "servicequotas:Get", "lambda:InvokeFunction"),
        *("elasticloadbalancing:Describe", "route53:ListTags"),
    )
    assert allowed
    assert all(action.startswith(looking) for action in allowed), allowed
    asked = statements_for(dev.statements(f"{function}Role"), "lambda:InvokeFunction")
    assert all("PrepareReplica" in resource for statement in asked for resource in resources(statement))


def test_only_the_collector_asks_the_price_list(dev: Deployment) -> None:
    assert [name for name in FUNCTIONS if "pricing:GetProducts" in actions(dev.statements(name))] == ["CollectPrices"]


def test_only_the_collector_reads_the_advisors_feed_and_nothing_else_of_others(dev: Deployment) -> None:
    [statement] = [one for one in dev.all_statements() if any("spot-bid-advisor" in each for each in resources(one))]
    assert statement in dev.statements("CollectPricesRole")
    assert as_list(statement["Action"]) == ["s3:GetObject"]
    assert "spot-bid-advisor/spot-advisor-data.json" in resources(statement)[0]


def test_the_authorizer_only_reads(dev: Deployment) -> None:
    allowed = actions(dev.statements("AuthorizeRole"))
    assert {action for action in allowed if not action.startswith(("logs:", "xray:"))} == {"dynamodb:GetItem"}


@pytest.mark.parametrize("function", ["Authorize", "AgentApi", "SnapshotApi", "PriceApi", "OperatorApi"])
def test_what_agents_and_operators_write_to_directly_never_touches_ec2(dev: Deployment, function: str) -> None:
    touching = {action for action in actions(dev.statements(f"{function}Role")) if action.startswith("ec2:")}
    assert all(action.startswith("ec2:Describe") for action in touching)


def test_only_the_preparation_of_a_replica_launches(dev: Deployment) -> None:
    assert [name for name in FUNCTIONS if "ec2:CreateFleet" in actions(dev.statements(name))] == ["PrepareReplicaRole"]


def test_only_the_failover_moves_traffic(dev: Deployment) -> None:
    assert [name for name in FUNCTIONS if "ec2:AssociateAddress" in actions(dev.statements(name))] == ["FailOverRole"]


def test_an_address_moves_only_if_an_admin_has_tagged_it(dev: Deployment) -> None:
    for statement in statements_for(dev.statements("FailOverRole"), "ec2:AssociateAddress"):
        if any("elastic-ip" in resource for resource in resources(statement)):
            assert statement["Condition"] == {"Null": {"aws:ResourceTag/spot-optimizer:client": "false"}}


def test_only_the_failover_moves_other_paths_and_only_what_it_may(dev: Deployment) -> None:
    for action in ("elasticloadbalancing:RegisterTargets", "elasticloadbalancing:DeregisterTargets"):
        [statement] = statements_for(dev.all_statements(), action)
        assert statement in statements_for(dev.statements("FailOverRole"), action)
        assert statement["Condition"] == {"Null": {"aws:ResourceTag/spot-optimizer:client": "false"}}
        assert all(":targetgroup/*" in resource for resource in resources(statement))
    [statement] = statements_for(dev.all_statements(), "route53:ChangeResourceRecordSets")
    assert statement in dev.statements("FailOverRole")
    assert statement["Condition"] == {
        "ForAllValues:StringEquals": {
            "route53:ChangeResourceRecordSetsRecordTypes": ["A"],
            "route53:ChangeResourceRecordSetsActions": ["UPSERT"],
        }
    }


def test_an_instance_is_terminated_only_if_we_launched_it(dev: Deployment) -> None:
    terminating = statements_for(dev.all_statements(), "ec2:TerminateInstances")
    assert terminating
    for statement in terminating:
        assert statement["Condition"] == {"Null": {"aws:ResourceTag/spot-optimizer:agent": "false"}}


def test_the_sweep_for_orphans_ends_what_carries_our_tag_and_writes_its_report_alone(dev: Deployment) -> None:
    statements = dev.statements("SweepOrphansRole")
    ending = {"ec2:TerminateInstances", "ec2:DeleteVolume", "ec2:ReleaseAddress"}
    changing = {action for action in actions(statements) if action.startswith("ec2:")} - {
        "ec2:DescribeInstances",
        "ec2:DescribeSpotInstanceRequests",
        "ec2:DescribeVolumes",
        "ec2:DescribeAddresses",
    }
    assert changing == ending
    for action in ending:
        for statement in statements_for(statements, action):
            assert statement["Condition"] == {"Null": {"aws:ResourceTag/spot-optimizer:agent": "false"}}
    written = [
        resource
        for action in ("dynamodb:UpdateItem", "dynamodb:PutItem")
        for statement in statements_for(statements, action)
        for resource in resources(statement)
    ]
    assert all("FleetControls" in resource for resource in written)
    assert len(written) == 1


def test_nobody_else_deletes_volumes_or_releases_addresses(dev: Deployment) -> None:
    for action in ("ec2:DeleteVolume", "ec2:ReleaseAddress"):
        assert [name for name in FUNCTIONS if action in actions(dev.statements(name))] == ["SweepOrphansRole"]


@pytest.mark.parametrize("kind", ["launch-template", "subnet"])
def test_a_launch_uses_only_what_an_admin_has_tagged(dev: Deployment, kind: str) -> None:
    launching = statements_for(dev.statements("PrepareReplicaRole"), "ec2:RunInstances")
    [statement] = [s for s in launching if any(f":{kind}/" in resource for resource in resources(s))]
    assert statement["Condition"] == {"Null": {"aws:ResourceTag/spot-optimizer:client": "false"}}


def test_a_launch_tags_what_it_makes(dev: Deployment) -> None:
    launching = statements_for(dev.statements("PrepareReplicaRole"), "ec2:RunInstances")
    [instance] = [s for s in launching if any(":instance/" in resource for resource in resources(s))]
    assert instance["Condition"] == {"Null": {"aws:RequestTag/spot-optimizer:agent": "false"}}


def test_a_tag_is_set_only_while_something_is_launched(dev: Deployment) -> None:
    for statement in statements_for(dev.all_statements(), "ec2:CreateTags"):
        assert statement["Condition"] == {"StringEquals": {"ec2:CreateAction": ["CreateFleet", "RunInstances"]}}


def test_who_moves_workloads_for_money_launches_terminates_and_promotes_nothing(dev: Deployment) -> None:
    allowed = {action for action in actions(dev.statements("SwitchAgentsRole")) if not action.startswith("dynamodb:")}
    ours = {action for action in allowed if not action.startswith(("logs:", "xray:", "sqs:"))}
    assert {action for action in ours if not action.startswith("ec2:Describe")} == {"states:StartExecution"}
    [start] = statements_for(dev.statements("SwitchAgentsRole"), "states:StartExecution")
    assert all("prepare-replica" in resource for resource in resources(start))


def test_only_roles_below_one_path_reach_an_instance(dev: Deployment) -> None:
    [statement] = statements_for(dev.all_statements(), "iam:PassRole")
    assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    assert all(":role/spot-optimizer/*" in resource for resource in resources(statement))


@pytest.mark.parametrize(
    ("machine", "function"),
    [
        ("FailOverMachine", "FailOver"),
        ("PrepareReplicaMachine", "PrepareReplica"),
        ("FillGapsMachine", "FillGaps"),
        ("SwitchAgentsMachine", "SwitchAgents"),
    ],
)
def test_a_state_machine_invokes_its_function_and_no_other(dev: Deployment, machine: str, function: str) -> None:
    [statement] = statements_for(dev.statements(f"{machine}Role"), "lambda:InvokeFunction")
    [resource] = as_list(statement["Resource"])
    assert resource["Fn::GetAtt"][0].startswith(f"{function}Function")


def test_the_activation_invokes_what_activates_and_what_scores_and_nothing_else(dev: Deployment) -> None:
    [statement] = statements_for(dev.statements("ActivateModelMachineRole"), "lambda:InvokeFunction")
    invoked = {resource["Fn::GetAtt"][0] for resource in as_list(statement["Resource"])}
    assert {name.split("Function")[0] for name in invoked} == {"ActivateModel", "ScoreRisk"}


@pytest.mark.parametrize(
    ("function", "allowed", "prefix"),
    [("AgentApi", {"s3:PutObject"}, "log-tails"), ("SnapshotApi", {"s3:GetObject", "s3:PutObject"}, "snapshots")],
)
def test_objects_are_reached_below_one_prefix_only(
    dev: Deployment, function: str, allowed: set[str], prefix: str
) -> None:
    reaching = [
        statement
        for statement in dev.statements(f"{function}Role")
        if any(action.startswith("s3:") for action in as_list(statement["Action"]))
    ]
    assert actions(reaching) == allowed
    assert all(f"/{prefix}/*" in resource for statement in reaching for resource in resources(statement))


@pytest.mark.parametrize("function", sorted(MODEL_OBJECTS))
def test_a_models_files_are_reached_below_their_prefix_only(dev: Deployment, function: str) -> None:
    statements = dev.statements(f"{function}Role")
    reached = {
        (action, prefix)
        for statement in statements
        for action in as_list(statement["Action"])
        if action.startswith("s3:") and action != "s3:ListBucket"
        for prefix in ("sessions", "scored", "")
        if any(f"/{prefix}/*" in resource for resource in resources(statement))
    }
    assert reached == {(f"s3:{action}", prefix) for action, prefix in MODEL_OBJECTS[function]}
    for statement in statements_for(statements, "s3:ListBucket"):
        assert statement["Condition"]["StringLike"]["s3:prefix"] in ("sessions/*", "scored/*")


def test_what_scores_changes_no_model(dev: Deployment) -> None:
    allowed = actions(dev.statements("ScoreRiskRole"))
    assert {action for action in allowed if action.startswith("dynamodb:")} == {"dynamodb:GetItem"}


def test_nobody_else_reaches_objects(dev: Deployment) -> None:
    reaching = statements_for(dev.all_statements(), "s3:PutObject") + statements_for(
        dev.all_statements(), "s3:GetObject"
    )
    reaching = [one for one in reaching if not any("spot-bid-advisor/" in resource for resource in resources(one))]
    of_those = [
        statement
        for function in ("AgentApi", "SnapshotApi", *MODEL_OBJECTS)
        for statement in dev.statements(f"{function}Role")
        if any(action.startswith("s3:") for action in as_list(statement["Action"]))
    ]
    assert all(statement in of_those for statement in reaching)


def test_only_the_preparation_of_a_replica_derives_join_tokens(dev: Deployment) -> None:
    assert [name for name in FUNCTIONS if "kms:GenerateMac" in actions(dev.statements(name))] == ["PrepareReplicaRole"]


def test_the_join_key_never_leaves_kms(dev: Deployment) -> None:
    key = dev.only("AWS::KMS::Key", "JoinKey")
    assert (key["KeySpec"], key["KeyUsage"]) == ("HMAC_256", "GENERATE_VERIFY_MAC")


def test_looking_at_the_fleet_writes_nothing(dev: Deployment) -> None:
    allowed = actions(dev.statements("FleetApiRole"))
    doing = {action for action in allowed if not action.startswith(("logs:", "xray:", "ec2:Describe"))}
    assert doing == {"dynamodb:GetItem", "dynamodb:Query", "lambda:InvokeFunction"}
    [statement] = statements_for(dev.statements("FleetApiRole"), "lambda:InvokeFunction")
    assert "DecideFleet" in resources(statement)[0], "what decides may be asked, and nothing else"


def test_what_decides_writes_decisions_and_no_more(dev: Deployment) -> None:
    statements = dev.statements("DecideFleetRole")
    doing = {action for action in actions(statements) if not action.startswith(("logs:", "xray:", "ec2:Describe"))}
    assert doing == {
        "dynamodb:GetItem",
        "dynamodb:PutItem",
        "dynamodb:Query",
        "s3:GetObject",
        "s3:PutObject",
        # what Lambda needs to keep an event on which it failed to the end
        "sqs:GetQueueAttributes",
        "sqs:GetQueueUrl",
        "sqs:SendMessage",
    }
    [writing] = statements_for(statements, "dynamodb:PutItem")
    assert all("Decisions" in resource for resource in resources(writing))
