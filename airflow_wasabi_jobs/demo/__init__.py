"""``python -m airflow_wasabi_jobs.demo`` runs a DAG that submits jobs and waits for them, without an account."""
