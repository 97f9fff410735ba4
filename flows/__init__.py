"""Prefect flows: when, where and with which retries the DVC stages run."""

import tasks  # noqa: F401  refuses a Python without the project's packages in one line
