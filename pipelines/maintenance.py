"""Maintenance: jobs that delete what is old; each can be launched by hand, with `dry_run`."""

import time
from typing import Any

from dagster import Field, OpExecutionContext, in_process_executor, job, op

from resources.email.mailer import outbox_folder
from resources.email.tables import EmailMessages
from resources.media.store import MediaStore
from resources.media.tables import Media
from resources.webhooks.tables import sweep_payloads
from runyard import clock
from runyard.dagster_adapter import run_retention
from runyard.engine import retention
from runyard.settings import settings
from runyard.syntax.retention_policy import Retention

_DAY = 86_400.0
_CONFIG = {
    "dry_run": Field(
        bool,
        is_required=False,
        default_value=False,
        description="Only report what would be deleted.",
    )
}
_WITH_TIMES = {
    **_CONFIG,
    "retention": Field(
        str,
        is_required=False,
        description="Overrides RUNYARD_RETENTION, in the same form: `30d, send_email=90d`.",
    ),
}


def _times(config: dict[str, Any]) -> Retention:
    return Retention.parse(config.get("retention") or settings().retention)


@op(config_schema=_WITH_TIMES)
def delete_old_events(context: OpExecutionContext) -> None:
    """Delete events, invocations, steps, progress and batches past their retention."""
    config = context.op_config
    swept = retention.sweep(
        dry_run=config["dry_run"], say=context.log.info, retention=_times(config)
    )
    vacuumed = retention.vacuum(dry_run=config["dry_run"])
    context.add_output_metadata(
        {"dry run": config["dry_run"], **swept.rows, "vacuumed": ", ".join(vacuumed) or "nothing"}
    )


@op(config_schema=_WITH_TIMES)
def delete_old_runs(context: OpExecutionContext) -> None:
    """Delete Dagster's runs with their event logs; Dagster deletes its ticks itself
    (`retention` in dagster.yaml)."""
    config = context.op_config
    swept = run_retention.sweep_runs(
        context.instance, dry_run=config["dry_run"], say=context.log.info, retention=_times(config)
    )
    context.add_output_metadata({"dry run": config["dry_run"], "runs": swept.rows.get("runs", 0)})


@op(config_schema=_WITH_TIMES)
def delete_old_files(context: OpExecutionContext, store: MediaStore, media: Media) -> None:
    """Delete old mails of the outbox, old webhook payloads, and orphaned media.

    Media are orphaned when no asset refers to them and they have not changed for a day.
    """
    config = context.op_config
    times = _times(config)
    general = times.general
    oldest = time.time() - general.total_seconds() if general is not None else 0.0
    mails = [path for path in outbox_folder().glob("*.eml") if path.stat().st_mtime < oldest]
    orphans = media.orphans(store, time.time() - _DAY)
    # An event's payload is needed as long as the event may be.
    before = times.all_before(clock.now())
    payloads = sweep_payloads(before, dry_run=config["dry_run"]) if before is not None else 0
    if not config["dry_run"]:
        for path in mails:
            path.unlink(missing_ok=True)
        for key, _ in orphans:
            store.delete(key)
    context.add_output_metadata(
        {
            "dry run": config["dry_run"],
            "mails": len(mails),
            "payloads": payloads,
            "media": len(orphans),
            "media bytes": sum(size for _, size in orphans),
        }
    )


@op(config_schema=_CONFIG)
def end_suppressions(context: OpExecutionContext, messages: EmailMessages) -> None:
    """Delete expired suppressions, so that these addresses are mailed again."""
    count = messages.end_suppressions(dry_run=context.op_config["dry_run"])
    context.add_output_metadata({"dry run": context.op_config["dry_run"], "addresses": count})


@job(
    executor_def=in_process_executor,
    description="Delete events, invocations and steps past their retention (RUNYARD_RETENTION)",
)
def sweep_events() -> None:
    """The job's graph; set `dry_run` in the config of its op to preview."""
    delete_old_events()


@job(
    executor_def=in_process_executor,
    description="Delete Dagster's runs past their retention (RUNYARD_RETENTION)",
)
def sweep_runs() -> None:
    """The job's graph; set `dry_run` in the config of its op to preview."""
    delete_old_runs()


@job(
    executor_def=in_process_executor,
    description="Delete old mails of the outbox, old webhook payloads, and orphaned media",
)
def sweep_files() -> None:
    """The job's graph; set `dry_run` in the config of its op to preview."""
    delete_old_files()


@job(executor_def=in_process_executor, description="Delete expired suppressions")
def sweep_suppressions() -> None:
    """The job's graph; set `dry_run` in the config of its op to preview."""
    end_suppressions()


jobs = [sweep_events, sweep_runs, sweep_files, sweep_suppressions]
