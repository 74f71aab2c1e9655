"""
What a task tells OpenLineage: the files that it had analysed, the results, and how the analysis ended.

Only OpenLineage calls this module, so nothing of it is imported where its provider is not installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_wasabi_jobs.links import split_location

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import Dataset
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_wasabi_jobs.api.batches import BatchReport
    from airflow_wasabi_jobs.api.models import Job, Submission
    from airflow_wasabi_jobs.submitting.batch_run import BatchResults
    from airflow_wasabi_jobs.submitting.file_jobs import FileJobs
    from airflow_wasabi_jobs.waiting.wait import JobWait

# Bound the size of an event. Manifests and results files are listed besides.
MAX_DATASETS = 100
MAX_LISTED_FAILURES = 100


def job_lineage(job: Job | Submission | None, wait: JobWait | None) -> OperatorLineage[Any, Any]:
    """
    Return the lineage of a task that waits for one job.

    :param job: what the job was submitted with, or None if it is unknown.
    :param wait: the wait for the job, or None if there is no job.
    """
    report = wait.report if wait else None
    return _lineage(
        inputs=[job.source.url] if job and job.source.bucket and job.source.object_key else [],
        outputs=[wait.result_path] if wait and wait.result_path else [],
        services=job.services if job else None,
        run_facets={
            "wasabi_job": {
                "job_id": wait.job_id if wait else None,
                "batch": job.batch if job else None,
                "status": report.status.value if report else None,
                "error_count": report.error_count if report else None,
                "error_code": wait.error_code if wait else None,
            }
        },
    )


def batch_lineage(batch: str, report: BatchReport | None) -> OperatorLineage[Any, Any]:
    """
    Return the lineage of a task that waits for a batch which other tasks submit.

    :param batch: the batch.
    :param report: the last report of the batch, or None if there was none.
    """
    failed_jobs = report.failed_jobs if report else []
    return _lineage(
        inputs=[job.source for job in failed_jobs if job.source],
        outputs=[],
        services=None,
        run_facets={
            "wasabi_batch": {
                "batch": batch,
                "counts": report.counts if report and report.is_counted else None,
                "failures": [job.to_xcom() for job in failed_jobs],
                "more_failures": report.more_failures if report else None,
            }
        },
    )


def files_lineage(
    file_jobs: FileJobs, results: BatchResults | None, *, manifest: str | None
) -> OperatorLineage[Any, Any]:
    """
    Return the lineage of a task that submits a batch of files.

    :param file_jobs: the files and their jobs.
    :param results: the end of the batch, or None if it has not finished.
    :param manifest: the URL of the manifest that lists the files, or None.
    """
    failures = results.failures if results else []
    locations = (result.metadata_path for result in results.files) if results else ()
    return _lineage(
        inputs=_with_first(manifest, (file.url for file in file_jobs.files)),
        outputs=_with_first(results.results_path if results else None, locations),
        services=file_jobs.services,
        run_facets={
            "wasabi_batch": {
                "batch": file_jobs.batch,
                "files": len(file_jobs.files),
                "counts": file_jobs.counts(),
                "failures": [failure.to_xcom() for failure in failures[:MAX_LISTED_FAILURES]],
                "more_failures": max(0, len(failures) - MAX_LISTED_FAILURES),
            }
        },
    )


def _with_first(first: str | None, urls: Iterable[str | None]) -> list[str]:
    """Return a URL that is always listed, if there is one, and as many of the others as are allowed."""
    return [*filter(None, [first]), *islice(filter(None, urls), MAX_DATASETS)]


def _lineage(
    *,
    inputs: Iterable[str],
    outputs: Iterable[str],
    services: Iterable[str] | None,
    run_facets: dict[str, dict[str, Any]],
) -> OperatorLineage[Any, Any]:
    from airflow.providers.common.compat.openlineage.facet import RunFacet
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.facet_v2 import JobFacet

    # Without the settings of the services, which may be large.
    job_facets = {} if services is None else {"wasabi_services": {"services": list(services)}}
    return OperatorLineage(
        inputs=_datasets(inputs),
        outputs=_datasets(outputs),
        run_facets={name: RunFacet().with_additional_properties(**facet) for name, facet in run_facets.items()},
        job_facets={name: JobFacet().with_additional_properties(**facet) for name, facet in job_facets.items()},
    )


def _datasets(urls: Iterable[str]) -> list[Dataset]:
    from airflow.providers.common.compat.openlineage.facet import Dataset

    names: dict[tuple[str, str], None] = {}
    for url in urls:
        # Without those that name no object.
        with suppress(ValueError):
            names[dataset_name(url)] = None
    return [Dataset(namespace=namespace, name=name) for namespace, name in names]


def dataset_name(url: str) -> tuple[str, str]:
    """
    Return the namespace and the name of a file, as the naming specification of OpenLineage has them.

    :param url: the URL of the file, such as ``s3://bucket/key``, with or without the id of a connection.
    :return: such as ``("s3://bucket", "key")``.
    :raises ValueError: if the URL has no bucket or no key.
    """
    scheme = url.partition("://")[0].lower()
    if scheme in {"file", "local"}:
        return "file", unquote(urlsplit(url).path)
    bucket, key = split_location(url)
    # An object in a bucket also has a URL with https.
    return f"{'s3' if scheme in {'http', 'https'} else scheme}://{bucket}", key
