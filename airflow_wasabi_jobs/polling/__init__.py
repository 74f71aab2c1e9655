"""
One poller for all waits of an event loop on one account.

Waits that are due at the same time are polled together. The lists of the account's unfinished jobs show which jobs are
still running, 100 with one request, and only the others are requested one by one. **A list never ends a wait, only the
job's own status does**: a job that a list omits, repeats or shows with a wrong status costs a request, but never a
wrong outcome.

A wait holds a :class:`Subscription`. The registry finds the poller of its account.
"""

from __future__ import annotations

from airflow_wasabi_jobs.polling.subscription import Subscription

__all__ = ["Subscription"]
