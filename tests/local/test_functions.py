from __future__ import annotations

from local import LocalAws
from tests.local.conftest import Builder, zipped


def a_layer(aws: LocalAws, files: dict[str, str]) -> str:
    archive = zipped({f"python/{name}": text for name, text in files.items()})
    arn: str = aws.client("lambda").publish_layer_version(LayerName="layer", Content={"ZipFile": archive})[
        "LayerVersionArn"
    ]
    return arn


def test_an_error_carries_the_name_of_its_class(build: Builder) -> None:
    function = build.a_function(
        """
        class StandbyGone(Exception): pass
        def handle(event, context): raise StandbyGone("no standby")
        """
    )
    payload = build.invoke(function)
    assert (payload["errorType"], payload["errorMessage"]) == ("StandbyGone", "no standby")
    assert any("StandbyGone" in line for line in payload["stackTrace"])


def test_an_error_does_not_cost_the_warm_environment(build: Builder) -> None:
    function = build.a_function(
        """
        calls = 0
        def handle(event, context):
            global calls
            calls += 1
            if event.get("fail"): raise ValueError
            return calls
        """
    )
    build.invoke(function, {"fail": True})
    assert build.invoke(function) == 2


def test_a_function_that_exits_or_runs_out_of_time_says_so(build: Builder) -> None:
    crash = build.a_function("import os\ndef handle(event, context): os._exit(1)")
    assert build.invoke(crash)["errorType"] == "Runtime.ExitError"
    slow = build.a_function("import time\ndef handle(event, context): time.sleep(5)", timeout=1)
    assert build.invoke(slow)["errorType"] == "Sandbox.Timedout"


def test_code_comes_before_layers_and_nothing_leaks_from_this_interpreter(aws: LocalAws, build: Builder) -> None:
    layer = a_layer(aws, {"shadowed.py": "whose = 'layer'", "only_in_layer.py": "there = True"})
    function = build.a_function(
        """
        import importlib.util, only_in_layer
        def handle(event, context):
            import index
            names = ("boto3", "moto", "pytest", "ministack", "hypercorn")
            return [importlib.util.find_spec(name) is not None for name in names]
        """,
        layers=[layer],
    )
    assert build.invoke(function) == [True, False, False, False, False]


def test_a_function_sees_its_own_environment_only(build: Builder, monkeypatch: object) -> None:
    function = build.a_function(
        "import os\ndef handle(event, context): return dict(os.environ)", environment={"STAGE": "test"}
    )
    seen = build.invoke(function)
    assert seen["STAGE"] == "test"
    assert seen["AWS_LAMBDA_FUNCTION_NAME"] in function
    assert not {"AUTH", "GATEWAY_PORT", "PYTHONPATH", "DOCKER_HOST"} & set(seen)


def test_a_warm_call_is_quick(build: Builder) -> None:
    import time

    function = build.a_function("def handle(event, context): return event")
    build.invoke(function)
    began = time.perf_counter()
    for _ in range(10):
        build.invoke(function)
    assert (time.perf_counter() - began) / 10 < 0.05
