"""What people see: the report page, its charts and the model card."""
