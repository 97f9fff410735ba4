"""Notifications of failed runs and of promoted or refused versions, sent by automations of the Prefect server.

The server sends them through one of its notification blocks (Slack, Teams, mail by SendGrid, any webhook), so a crash
that kills every process of a run is notified, too. The automations are identified by name: running this again updates
them.

run as: python -m flows.notify --block slack-webhook/NAME [--block sendgrid-email/NAME …]
        python -m flows.notify --remove
"""

from __future__ import annotations

import argparse
import datetime
import functools
import sys
from collections.abc import Iterator, Sequence
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import ActionTypes, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.prefect_ui import automations
from tasks.core.errors import ConfigError, PipelineError

FAILED, REFUSED, PROMOTED = "dpo: a run failed", "dpo: a version was refused", "dpo: a version was promoted"

_RUN_SUBJECT = "{{ event.resource.name }}: {{ event.resource['prefect.state-name'] }}"
_RUN_BODY = """\
{{ event.resource['prefect.state-message'] or 'it left no message' }}
{% if flow_run|ui_url %}{{ flow_run|ui_url }}{% else %}flow run {{ flow_run.id }}{% endif %}"""
_VERSION_SUBJECT = "{{ event.payload.name }}@v{{ event.payload.serial }} was %s"
_VERSION_BODY = """\
version {{ event.payload.version[:12] }}
{% if event.payload.win_rate is number %}win rate {{ event.payload.win_rate|round(4) }}
{% endif %}{% if event.payload.lower_bound is number %}lower bound {{ event.payload.lower_bound|round(4) }}
{% endif %}{% for reason in event.payload.reasons %}- {{ reason }}
{% endfor %}{% if flow_run and flow_run|ui_url %}{{ flow_run|ui_url }}{% endif %}"""


def notifications(blocks: Sequence[UUID]) -> Iterator[AutomationCore]:
    """Yield the three automations, each of which sends to all notification ``blocks``, given by id."""
    # the defaults are given, since an update sends only what is given, and the server refuses a trigger without posture
    on_each = functools.partial(EventTrigger, posture=Posture.Reactive, threshold=1, within=datetime.timedelta(0))
    # matched by the type of the state, since a state may have any name, such as `Refused`
    failed = on_each(
        expect={"prefect.flow-run.*"},
        match={"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": ["FAILED", "CRASHED"]},
        match_related=automations.OUR_FLOWS,
    )
    refused = on_each(expect={"dpo.refused"}, match={"prefect.resource.id": "dpo.version.*"})
    promoted = on_each(expect={"dpo.promoted"}, match={"prefect.resource.id": "dpo.version.*"})

    for name, trigger, subject, body in (
        (FAILED, failed, _RUN_SUBJECT, _RUN_BODY),
        (REFUSED, refused, _VERSION_SUBJECT % "refused", _VERSION_BODY),
        (PROMOTED, promoted, _VERSION_SUBJECT % "promoted", _VERSION_BODY),
    ):
        actions: list[ActionTypes] = [
            SendNotification(block_document_id=block, subject=subject, body=body) for block in blocks
        ]
        description = "Made by `python -m flows.notify`"
        yield AutomationCore(name=name, description=description, trigger=trigger, actions=actions)


def find_block(client: SyncPrefectClient, name: str) -> UUID:
    """Return the id of a notification block, named TYPE/NAME.

    Raises:
        ConfigError: It does not exist, or cannot notify; the message says how to make one.
    """
    kind, _, block_name = name.partition("/")
    if not (kind and block_name):
        raise ConfigError(f"--block {name} is not a TYPE/NAME", "give, for example, slack-webhook/releases")
    try:
        block = client.read_block_document_by_name(block_name, kind, include_secrets=False)
    except ObjectNotFound:
        raise ConfigError(f"the server has no block {name}", _how_to_make(client, name)) from None
    schema = block.block_schema
    if schema is None or "notify" not in schema.capabilities:
        raise ConfigError(f"the block {name} sends no notifications", _how_to_make(client, name))
    return block.id


def _how_to_make(client: SyncPrefectClient, name: str) -> str:
    """Return how to make a notification block, which ones exist, and which types can notify."""
    block_name = name.partition("/")[2]
    schemas = [schema for schema in client.read_block_schemas() if "notify" in schema.capabilities]
    kinds = {schema.block_type_id: schema.block_type.slug for schema in schemas if schema.block_type}
    known = [
        f"{kinds[one.block_type_id]}/{one.name}"
        for one in client.read_block_documents(include_secrets=False)
        if one.block_type_id in kinds
    ]
    return (
        "make it on the server's page Blocks, or in Python: `from prefect.blocks.notifications import SlackWebhook; "
        f'SlackWebhook(url="https://hooks.slack.com/…").save("{block_name}")`; '
        f"blocks that notify: {', '.join(sorted(known)) or 'none yet'}; "
        f"types that can: {', '.join(sorted(set(kinds.values())))}"
    )


def main() -> int:
    """Set up or remove the notifications; the exit code is 1 if a block is missing or the server does not answer."""
    parser = argparse.ArgumentParser(prog="python -m flows.notify", description=__doc__.splitlines()[0])
    parser.add_argument("--block", action="append", metavar="TYPE/NAME", help="a block to notify; may be repeated")
    parser.add_argument("--remove", action="store_true", help="remove the notifications")
    arguments = parser.parse_args()
    if bool(arguments.block) == arguments.remove:
        parser.error("give --block TYPE/NAME, or --remove")

    with automations.server() as client:
        if client is None:
            return 1
        if arguments.remove:
            print(f"{automations.remove(client, (FAILED, REFUSED, PROMOTED))} automations removed")
            return 0

        try:
            blocks = [find_block(client, name) for name in arguments.block]
        except PipelineError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        for automation in notifications(blocks):
            automations.put(client, automation)
    print(f"{', '.join(arguments.block)}: notified of failed runs, refused versions and promoted versions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
