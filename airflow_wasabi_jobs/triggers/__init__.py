"""Triggers: they poll in the triggerer, for a sensor or an operator that is deferred, or for an asset watcher."""

from airflow_wasabi_jobs.triggers.batch import WasabiBatchTrigger, WasabiUnfinishedJobsTrigger
from airflow_wasabi_jobs.triggers.job import WasabiJobTrigger
from airflow_wasabi_jobs.triggers.jobs_finished import WasabiJobsFinishedTrigger

__all__ = ["WasabiBatchTrigger", "WasabiJobTrigger", "WasabiJobsFinishedTrigger", "WasabiUnfinishedJobsTrigger"]
