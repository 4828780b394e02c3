"""`python -m examples.ledger <verb>`: the ledger's hooks, its client and its audit."""

import os
import sys

from examples.ledger.errors import LedgerError, NotServing
from examples.ledger.settings import Settings, read_settings

USAGE = """usage: python -m examples.ledger <verb>

  serve     serve in the foreground until SIGTERM             (HOOK_START)
  stop      have the serving process end, and wait for it
  freeze    stop acknowledging; returns when nothing is in flight (HOOK_FREEZE)
  thaw      acknowledge again                                 (HOOK_THAW)
  quiesce   bring the image up to the last committed entry    (HOOK_QUIESCE)
  restore   make the image the live ledger, before serve      (HOOK_RESTORE)
  health    exit 0 when the ledger answers its clients        (HOOK_HEALTH)
  client    write entries without pause (--help)
  audit     find lost writes and double primaries (--help)

Settings come from the environment; README.md lists them.
"""

HOOK_SECONDS = 30.0
HEALTH_SECONDS = 2.0


def main(arguments: list[str]) -> int:
    """Run one verb.

    Each verb imports only what it needs: a hook is part of an outage, and most of its time goes into starting Python.

    Returns:
        The exit status: 0 done, 1 refused with the reason on stderr, 2 no such verb.
    """
    verb, rest = (arguments[0] if arguments else ""), arguments[1:]
    try:
        if verb == "client":
            from examples.ledger.client import main as client

            return client(rest)
        if verb == "audit":
            from examples.ledger.audit import main as audit

            return audit(rest)
        if verb not in ("serve", "stop", "freeze", "thaw", "quiesce", "restore", "health") or rest:
            sys.stderr.write(USAGE)
            return 0 if verb in ("-h", "--help", "help") else 2
        return _run_hook(verb, read_settings(os.environ))
    except LedgerError as error:
        print(f"ledger: {verb}: {error}", file=sys.stderr)
        return 1


def _run_hook(verb: str, settings: Settings) -> int:
    if verb == "serve":
        from examples.ledger.serving import serve

        serve(settings)
        return 0
    if verb == "restore":
        return _restore(settings)

    from examples.ledger import control

    if verb == "health":
        answer = control.ask_health(settings.address, settings.port, within_seconds=HEALTH_SECONDS)
    elif verb == "quiesce":
        try:
            answer = control.ask(settings.live_folder, verb, within_seconds=HOOK_SECONDS)
        except NotServing:
            return _quiesce_a_stopped_ledger(settings)
    else:
        answer = control.ask(settings.live_folder, verb, within_seconds=HOOK_SECONDS)
    print(answer.body, file=sys.stdout if answer.status == 200 else sys.stderr)
    if verb == "stop":
        control.hold(settings.live_folder, within_seconds=HOOK_SECONDS).release()
    return 0 if answer.status == 200 else 1


def _restore(settings: Settings) -> int:
    from examples.ledger import clock, control, eventlog, image

    held = control.hold(settings.live_folder, within_seconds=0.5)
    entries_up_to = image.restore(settings.image_path, settings.live_folder)
    held.release()
    log = eventlog.EventLog(settings.log_path, instance_id=settings.instance_id, epoch=settings.epoch, pid=os.getpid())
    log.append("restored", seq=entries_up_to, took_ns=clock.boot_ns() - clock.process_started_boot_ns())
    print(f'{{"entries_up_to":{entries_up_to}}}')
    return 0


def _quiesce_a_stopped_ledger(settings: Settings) -> int:
    from examples.ledger import control, image

    # Holding the folder proves that nothing serves from it, rather than that what serves is slow to answer.
    held = control.hold(settings.live_folder)
    taken = image.ImageTaker(settings.database_path, settings.image_path).take()
    held.release()
    print(f'{{"changed":{str(taken.changed).lower()},"entries_up_to":{taken.entries_up_to}}}')
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
