"""The demo: ``python -m airflow_wasabi_jobs.demo`` shows a DAG that waits for jobs, without an account."""
