"""Apache Airflow provider for Wasabi AiR jobs: AI analysis of media files in a bucket."""

from __future__ import annotations

__version__ = "0.1.0"
