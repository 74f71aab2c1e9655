"""The metadata of the provider, from which Airflow shows the provider and its connection form."""

from __future__ import annotations

from typing import Any

from airflow_wasabi_jobs import __version__


def get_provider_info() -> dict[str, Any]:
    """Return the metadata of the provider."""
    return {
        "package-name": "airflow-wasabi-jobs",
        "name": "Wasabi AiR",
        "description": "Submit media files to Wasabi AiR for AI analysis, and wait for the results.",
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
        "config": {
            "wasabi": {
                "description": "Settings of Wasabi AiR for this installation of Airflow.",
                "options": {
                    "job_name_prefix": {
                        "description": (
                            "Text in front of the default names of jobs and batches. Set it if several installations "
                            "of Airflow use one Wasabi account: the ids of their DAGs and runs may be equal."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "staging/",
                        "default": "",
                    }
                },
            }
        },
        "extra-links": [
            "airflow_wasabi_jobs.links.WasabiResultLink",
            "airflow_wasabi_jobs.links.WasabiResultsFileLink",
        ],
        "connection-types": [
            {
                "connection-type": "wasabi",
                "hook-class-name": "airflow_wasabi_jobs.hooks.WasabiJobsHook",
                "hook-name": "Wasabi AiR",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema"],
                    # The port is shown because Airflow 3.3.1 and 3.3.2 cannot test a connection without one.
                    "relabeling": {
                        "host": "Base URL",
                        "login": "Access key",
                        "password": "Secret key",
                        "port": "Port",
                    },
                    "placeholders": {
                        "host": "https://air.example.com",
                        "port": "443 (required for Test on Airflow 3.3.1 and 3.3.2)",
                    },
                },
                "conn-fields": {
                    "connect_timeout": {
                        "label": "Connect timeout",
                        "description": "Seconds to wait for the connection to be established. Default: 5.",
                        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 600},
                    },
                    "read_timeout": {
                        "label": "Response timeout",
                        "description": "Seconds to wait for the complete response. Default: 30.",
                        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 600},
                    },
                    "retries": {
                        "label": "Retries",
                        "description": "How many times to retry a request after a temporary error. Default: 3.",
                        "schema": {"type": ["integer", "null"], "minimum": 0, "maximum": 10},
                    },
                    "verify": {
                        "label": "Verify certificate",
                        "description": "true, false, or the path of a CA bundle. Default: true.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "allow_http": {
                        "label": "Allow unencrypted HTTP",
                        "description": "Only on a network you trust: your keys are sent unencrypted.",
                        "schema": {"type": ["boolean", "null"], "default": False},
                    },
                    "proxy": {
                        "label": "Proxy",
                        "description": "URL of a proxy, e.g. http://proxy.example.com:3128.",
                        "schema": {"type": ["string", "null"], "format": "password"},
                    },
                    "console_url": {
                        "label": "Console URL",
                        "description": "Links tasks to their results, e.g. https://console.example.com/{bucket}/{key}.",
                        "schema": {"type": ["string", "null"]},
                    },
                },
            }
        ],
    }
