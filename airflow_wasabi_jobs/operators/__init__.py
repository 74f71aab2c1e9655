"""Operators that submit files to Wasabi AiR and wait for the results: one file, or a batch of files."""

from airflow_wasabi_jobs.operators.submit_batch import WasabiSubmitBatchOperator
from airflow_wasabi_jobs.operators.submit_job import WasabiSubmitJobOperator

__all__ = ["WasabiSubmitBatchOperator", "WasabiSubmitJobOperator"]
