"""An Apache Airflow provider: a DAG submits Wasabi AiR jobs and waits for them."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def get_provider_info() -> dict[str, Any]:
    """Return the provider's card, which Airflow reads to show the provider and its connection form."""
    return {
        "package-name": "airflow-wasabi-jobs",
        "name": "Wasabi AiR",
        "description": "Submit and wait for `Wasabi AiR <https://wasabi.com/>`__ jobs: "
        "AI analysis of media in a bucket.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": "Wasabi AiR",
                "external-doc-url": "https://docs.wasabi.com/",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": "Wasabi AiR", "python-modules": ["airflow_wasabi_jobs.hooks"]}],
        "operators": [{"integration-name": "Wasabi AiR", "python-modules": ["airflow_wasabi_jobs.operators"]}],
        "sensors": [{"integration-name": "Wasabi AiR", "python-modules": ["airflow_wasabi_jobs.sensors"]}],
        "triggers": [{"integration-name": "Wasabi AiR", "python-modules": ["airflow_wasabi_jobs.triggers"]}],
        "connection-types": [
            {
                "connection-type": "wasabi",
                "hook-class-name": "airflow_wasabi_jobs.hooks.WasabiJobsHook",
                "hook-name": "Wasabi AiR",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema"],
                    # The port is there because Airflow 3.3.1 and 3.3.2 test no connection without one.
                    "relabeling": {
                        "host": "Base URL",
                        "login": "Access key",
                        "password": "Secret key",
                        "port": "Port",
                    },
                    "placeholders": {"host": "https://air.example.com", "port": "443, or the one in the Base URL"},
                },
                "conn-fields": {
                    "connect_timeout": {
                        "label": "Connect time-out",
                        "description": "Seconds until the connection must stand. Default 5.",
                        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 600},
                    },
                    "read_timeout": {
                        "label": "Read time-out",
                        "description": "Seconds until the whole answer must be here. Default 30.",
                        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 600},
                    },
                    "retries": {
                        "label": "Retries",
                        "description": "How often a request that failed is tried again, if that may help. Default 3.",
                        "schema": {"type": ["integer", "null"], "minimum": 0, "maximum": 10},
                    },
                    "verify": {
                        "label": "Verify the certificate",
                        "description": "true (default), false, or the path of a CA bundle.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "allow_http": {
                        "label": "Allow plain http",
                        "description": "Only on a network of your own: the keys are readable on the way.",
                        "schema": {"type": ["boolean", "null"], "default": False},
                    },
                    "proxy": {
                        "label": "Proxy",
                        "description": "URL of the proxy to go through, like http://proxy.example.com:3128.",
                        "schema": {"type": ["string", "null"], "format": "password"},
                    },
                },
            }
        ],
    }
