"""Client library for the Wasabi AiR Jobs API. Imports nothing from Airflow."""
