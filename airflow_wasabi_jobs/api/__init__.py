"""The Wasabi AiR Jobs API. Nothing in here knows Airflow."""
