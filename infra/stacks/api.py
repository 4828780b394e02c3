"""The HTTP API that agents, operators and the console talk to."""

from __future__ import annotations

from aws_cdk import CfnOutput, CfnParameter, Stack
from constructs import Construct

from infra import routes
from infra.constructs.ec2_access import CATALOGUE, allow_asking_whose_paths, allow_looking, allow_terminating
from infra.constructs.function import Function
from infra.constructs.http_api import PublicApi
from infra.constructs.parameter import Parameter, parameter_arn
from infra.constructs.shared_layer import SharedLayer
from infra.constructs.state_machine import allow_following_executions, allow_waking_tasks, state_machine_arn
from infra.constructs.table import CONDITIONAL_WRITES
from infra.settings import Settings
from infra.stacks.data import DataStack
from infra.stacks.models import ModelStack
from infra.stacks.workflow import WorkflowStack


class ApiStack(Stack):
    """Routers, their authorizer, and the address under which launched instances find them."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        data: DataStack,
        workflow: WorkflowStack,
        models: ModelStack,
    ) -> None:
        super().__init__(
            scope,
            construct_id,
            description="Spot Optimizer: HTTP API",
            termination_protection=settings.keeps_data,
        )
        self._settings = settings
        self._data = data
        self._workflow = workflow
        self._models = models
        self._layer = SharedLayer(self, "SharedLayer", settings=settings)

        certificate = CfnParameter(
            self,
            "InstanceIdentityCertificate",
            type="String",
            min_length=64,
            max_length=4096,
            description=(
                "PEM certificate with which AWS signs instance identity documents in this region; by such a document "
                "an agent proves which instance it runs on. AWS publishes it, per region, in the EC2 User Guide under "
                "'AWS public certificates for instance identity document signatures' (RSA-2048)."
            ),
        )
        Parameter(
            self,
            "IdentityCertificateParameter",
            name=settings.identity_certificate_parameter,
            value=certificate.value_as_string,
            description="Certificate that signs the instance identity documents of this region",
        )

        authorize = self._function("Authorize", timeout_seconds=5, memory_megabytes=512)
        agent_api = self._function("AgentApi", timeout_seconds=15, memory_megabytes=512)
        replica_api = self._function("ReplicaApi", timeout_seconds=15, memory_megabytes=512)
        snapshot_api = self._function("SnapshotApi", timeout_seconds=25, memory_megabytes=512)
        price_api = self._function("PriceApi", timeout_seconds=25, memory_megabytes=1024)
        # long enough for a decision that does not come, and for the rule to stand in
        fleet_api = self._function("FleetApi", timeout_seconds=25, memory_megabytes=512)
        # a month of prices of several pools is read and added up: most of that is work for the processor
        report_api = self._function("ReportApi", timeout_seconds=29, memory_megabytes=1769)
        doctor_api = self._function("DoctorApi", timeout_seconds=29, memory_megabytes=512)
        operator_api = self._function("OperatorApi", timeout_seconds=15, memory_megabytes=512)
        model_api = self._function("ModelApi", timeout_seconds=15, memory_megabytes=512)
        self._allow_authorize(authorize)
        self._allow_agent_api(agent_api)
        self._allow_replica_api(replica_api)
        self._allow_snapshot_api(snapshot_api)
        self._allow_price_api(price_api)
        self._allow_fleet_api(fleet_api)
        self._allow_report_api(report_api)
        self._allow_doctor_api(doctor_api)
        self._allow_operator_api(operator_api)
        self._allow_model_api(model_api)

        api = PublicApi(self, "Api", settings=settings, authorize=authorize)
        api.serve(routes.AGENT_API, by=agent_api)
        api.serve(routes.REPLICA_API, by=replica_api)
        api.serve(routes.SNAPSHOT_API, by=snapshot_api)
        api.serve(routes.PRICE_API, by=price_api)
        api.serve(routes.FLEET_API, by=fleet_api)
        api.serve(routes.REPORT_API, by=report_api)
        api.serve(routes.DOCTOR_API, by=doctor_api)
        api.serve(routes.OPERATOR_API, by=operator_api)
        api.serve(routes.MODEL_API, by=model_api)
        api.serve_anyone(
            routes.OPEN,
            by=operator_api,
            reason="A health check and a description of the API tell nothing about any tenant.",
        )
        api.limit(routes.LIMITED)
        Parameter(
            self,
            "ApiUrlParameter",
            name=settings.api_url_parameter,
            value=api.url,
            description="Public address of the API; a launched instance is told it",
        )
        CfnOutput(self, "ApiUrl", value=api.url)

    def _function(self, name: str, *, timeout_seconds: int, memory_megabytes: int) -> Function:
        return Function(
            self,
            name,
            settings=self._settings,
            layer=self._layer,
            environment={
                **self._data.names,
                "FAIL_OVER_STATE_MACHINE_ARN": self._workflow.fail_over_arn,
                "PREPARE_REPLICA_STATE_MACHINE_ARN": self._workflow.prepare_replica_arn,
                "ACTIVATE_MODEL_STATE_MACHINE_ARN": state_machine_arn(self, self._settings, "activate_model"),
                "FILL_GAPS_STATE_MACHINE_ARN": self._workflow.fill_gaps_arn,
                "FAIL_OVER_FUNCTION": self._workflow.fail_over.name,
                "PREPARE_REPLICA_FUNCTION": self._workflow.prepare_replica.name,
                "DECIDE_FLEET_FUNCTION": self._models.decide_fleet.name,
                "API_URL_PARAMETER": self._settings.api_url_parameter,
                "IDENTITY_CERTIFICATE_PARAMETER": self._settings.identity_certificate_parameter,
                "HEARTBEAT_TIMEOUT": str(self._settings.heartbeat_timeout_seconds),
            },
            timeout_seconds=timeout_seconds,
            memory_megabytes=memory_megabytes,
        )

    def _allow_authorize(self, function: Function) -> None:
        self._data.tokens.allow(function.grantee, "GetItem")

    def _allow_agent_api(self, function: Function) -> None:
        data = self._data
        data.tokens.allow(function.grantee, *CONDITIONAL_WRITES)
        data.agents.allow(function.grantee, *CONDITIONAL_WRITES)
        data.agents.allow_query_by(function.grantee, "client-index", "listing-index")
        data.heartbeats.allow(function.grantee, "GetItem", "PutItem")
        data.instances.allow(function.grantee, *CONDITIONAL_WRITES)
        data.replicas.allow(function.grantee, "Query", *CONDITIONAL_WRITES)
        data.snapshots.allow(function, "PutObject", prefix="log-tails")
        function.allow("ssm:GetParameter", on=parameter_arn(self, self._settings.identity_certificate_parameter))
        # whether the admin has tagged for this client what a new agent names
        allow_looking(function, "DescribeLaunchTemplates", "DescribeSubnets", "DescribeAddresses")
        allow_asking_whose_paths(function)
        allow_waking_tasks(function)
        self._allow_reconciling_traffic(function)

    def _allow_replica_api(self, function: Function) -> None:
        data = self._data
        data.agents.allow(function.grantee, *CONDITIONAL_WRITES)
        data.fleet_controls.allow(function.grantee, "GetItem")
        # what a model said of an agent before, where an emergency replica is asked for
        data.decisions.allow(function.grantee, "Query")
        data.heartbeats.allow(function.grantee, "GetItem")
        data.instances.allow(function.grantee, *CONDITIONAL_WRITES)
        data.replicas.allow(function.grantee, "Query", *CONDITIONAL_WRITES)
        data.interruptions.allow(function.grantee, *CONDITIONAL_WRITES)
        data.interruptions.allow_query_by(function.grantee, "pool-index")
        data.switches.allow(function.grantee, *CONDITIONAL_WRITES)
        data.state_snapshots.allow(function.grantee, "GetItem")
        # what the pools that a replica is chosen from cost on demand
        data.pools.allow(function.grantee, "GetItem")
        # what was decided, where a switch is to follow the engine
        data.decisions.allow(function.grantee, "Query")
        for machine in (self._workflow.fail_over_arn, self._workflow.prepare_replica_arn):
            function.allow("states:StartExecution", on=machine)
        allow_waking_tasks(function)
        allow_following_executions(function, self._settings, "fail_over")
        # a promotion without a word from the primary rests on EC2's word that it is dead
        allow_looking(function, "DescribeInstances", *CATALOGUE)
        allow_terminating(function)

    def _allow_snapshot_api(self, function: Function) -> None:
        data = self._data
        data.agents.allow(function.grantee, *CONDITIONAL_WRITES)
        data.state_snapshots.allow(function.grantee, "Query", *CONDITIONAL_WRITES)
        # it signs for agents what it may do itself; a head to see the size is a kind of reading
        data.snapshots.allow(function, "PutObject", "GetObject", prefix="snapshots")

    def _allow_reconciling_traffic(self, function: Function) -> None:
        # traffic follows a promotion at once, by the function that alone may move it
        function.allow("lambda:InvokeFunction", on=self._workflow.fail_over.arn)

    def _allow_model_api(self, function: Function) -> None:
        data = self._data
        data.model_sessions.allow(function.grantee, *CONDITIONAL_WRITES)
        data.model_sessions.allow_query_by(function.grantee, "listing-index")
        data.model_slots.allow(function.grantee, *CONDITIONAL_WRITES)
        # it signs for operators what it may do itself; it deletes what an activation left that was stopped by hand
        data.models.allow(function, "PutObject", "GetObject", "DeleteObject", prefix="sessions")
        data.models.allow_listing(function, prefix="sessions")
        function.allow("states:StartExecution", on=state_machine_arn(self, self._settings, "activate_model"))
        allow_following_executions(function, self._settings, "activate_model")

    def _allow_price_api(self, function: Function) -> None:
        data = self._data
        data.agents.allow(function.grantee, "GetItem")
        data.pools.allow(function.grantee, "GetItem")
        data.pools.allow_query_by(function.grantee, "listing-index")
        data.raw_prices.allow(function.grantee, "PutItem", "Query")
        data.clean_prices.allow(function.grantee, "UpdateItem", "Query")
        data.inferred_prices.allow(function.grantee, "Query")
        function.allow("states:StartExecution", on=self._workflow.fill_gaps_arn)

    def _allow_fleet_api(self, function: Function) -> None:
        data = self._data
        data.agents.allow(function.grantee, "GetItem")
        data.pools.allow(function.grantee, "GetItem")
        # what a decision needs, where none is stored that may still be acted upon
        data.decisions.allow(function.grantee, "GetItem", "Query")
        function.allow("lambda:InvokeFunction", on=self._models.decide_fleet.arn)
        data.clean_prices.allow(function.grantee, "Query")
        for table in (data.heartbeats, data.instances, data.replicas):
            table.allow(function.grantee, "GetItem")
        allow_looking(function, *CATALOGUE)
        data.instances.allow_query_by(function.grantee, "client-index")
        data.interruptions.allow_query_by(
            function.grantee, "agent-index", "client-index", "listing-index", "pool-index"
        )
        data.switches.allow_query_by(function.grantee, "agent-index", "client-index", "listing-index")

    def _allow_report_api(self, function: Function) -> None:
        data = self._data
        data.agents.allow(function.grantee, "GetItem")
        data.agents.allow_query_by(function.grantee, "client-index", "listing-index")
        data.heartbeats.allow(function.grantee, "Query")
        data.replicas.allow(function.grantee, "Query")
        data.pools.allow(function.grantee, "GetItem")
        data.clean_prices.allow(function.grantee, "Query")
        data.instances.allow_query_by(function.grantee, "agent-index")
        for table in (data.interruptions, data.switches):
            table.allow_query_by(function.grantee, "agent-index", "client-index", "listing-index")

    def _allow_doctor_api(self, function: Function) -> None:
        data = self._data
        for table in (data.agents, data.heartbeats, data.instances):
            table.allow(function.grantee, "GetItem")
        allow_looking(
            function,
            "DescribeAddresses",
            "DescribeInstances",
            "DescribeInstanceTypes",
            "DescribeLaunchTemplates",
            "DescribeLaunchTemplateVersions",
            "DescribeSecurityGroups",
            "DescribeSubnets",
        )
        allow_asking_whose_paths(function)
        function.allow(
            "servicequotas:GetServiceQuota",
            on="*",
            wildcard_because="A quota is looked at by its code, and which one it is follows from the agent's types.",
        )
        # a launch is rehearsed by the function that would make it, so that this one need not be allowed to
        function.allow("lambda:InvokeFunction", on=self._workflow.prepare_replica.arn)

    def _allow_operator_api(self, function: Function) -> None:
        data = self._data
        data.model_slots.allow(function.grantee, "GetItem")
        data.clients.allow(function.grantee, "GetItem", "PutItem")
        data.clients.allow_query_by(function.grantee, "listing-index")
        data.fleet_controls.allow(function.grantee, *CONDITIONAL_WRITES)
        data.tokens.allow(function.grantee, *CONDITIONAL_WRITES)
