"""The journal: whatever dies and when, what it says is whole, and not older than what was acted upon."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spot_agent.journal import AgentAlreadyRuns, Journal, JournalDamaged, Memory

WRITER = """
import sys
from pathlib import Path
from spot_agent.journal import Journal, Memory
journal = Journal(Path(sys.argv[1]))
if journal.load() is None:
    journal.begin(Memory(registration_key="key"))
number = journal.memory.readiness
while True:
    number += 1
    journal.remember(readiness=number, role="primary" if number % 2 else "standby", epoch=number)
    print(number, flush=True)
"""


def test_an_instance_that_never_registered_remembers_nothing(tmp_path: Path) -> None:
    assert Journal(tmp_path / "new").load() is None


def test_what_was_remembered_is_there_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin(Memory(registration_key="key"))
    journal.remember(role="standby", epoch=3, granting=False, refused_at_readiness=4, agent_token="secret")
    journal.close()
    assert Journal(tmp_path).load() == Memory(
        registration_key="key",
        role="standby",
        epoch=3,
        granting=False,
        refused_at_readiness=4,
        agent_token="secret",
    )


def test_only_one_agent_at_a_time_holds_the_journal(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    with pytest.raises(AgentAlreadyRuns):
        Journal(tmp_path)
    first.close()
    Journal(tmp_path).close()


def test_the_journal_is_for_its_owner_only_because_the_token_lies_in_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state")
    journal.begin(Memory(registration_key="key", agent_token="secret"))
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / "memory.json").stat().st_mode & 0o077 == 0
    assert "secret" not in repr(journal.memory)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[:-5], id="cut off"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda content: content.replace(b"key", b"kez"), id="changed"),
    ],
)
def test_a_journal_that_is_not_whole_is_refused_and_not_taken_for_a_new_one(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    journal = Journal(tmp_path)
    journal.begin(Memory(registration_key="key"))
    journal.close()
    path = tmp_path / "memory.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(JournalDamaged):
        Journal(tmp_path).load()


def test_the_journal_survives_sigkill_at_any_time(tmp_path: Path) -> None:
    chance = random.Random(1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    acted_upon = 0
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        acted_upon = int(writer.stdout.readline())
        time.sleep(chance.random() * 0.03)
        os.kill(writer.pid, signal.SIGKILL)
        acted_upon = max([acted_upon, *map(int, writer.stdout.read().splitlines())])
        writer.stdout.close()
        writer.wait()
        journal = Journal(tmp_path)
        memory = journal.load()
        journal.close()
        assert memory is not None
        # What was printed was durable before; one more change may have become so without being printed.
        assert memory.readiness in (acted_upon, acted_upon + 1)
        assert memory.epoch == memory.readiness
        assert memory.role == ("primary" if memory.readiness % 2 else "standby")
