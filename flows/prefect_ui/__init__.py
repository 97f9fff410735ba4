"""What people see and set in Prefect: artifacts, run names, automations."""
