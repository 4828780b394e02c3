"""Builds the stacks, nothing else. `cdk deploy --all` and `make synth` both run this."""

from aws_cdk import App, Tags, Validations
from cdk_nag import AwsSolutionsChecks, ServerlessChecks

from infra.settings import Settings
from infra.stacks.api import ApiStack
from infra.stacks.data import DataStack
from infra.stacks.models import ModelStack
from infra.stacks.workflow import WorkflowStack

app = App(analytics_reporting=False)
settings = Settings.from_context(app.node)

data = DataStack(app, settings.stack_name("data"), settings=settings)
workflow = WorkflowStack(app, settings.stack_name("workflow"), settings=settings, data=data)
models = ModelStack(app, settings.stack_name("models"), settings=settings, data=data)
ApiStack(app, settings.stack_name("api"), settings=settings, data=data, workflow=workflow, models=models)

Tags.of(app).add("application", "spot-optimizer")
Tags.of(app).add("stage", settings.stage)
Validations.of(app).add_plugins(AwsSolutionsChecks(app), ServerlessChecks(app))
app.synth()
