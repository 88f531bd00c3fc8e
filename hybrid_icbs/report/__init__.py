"""What is shown of a run: record, HTML page, plots, model card."""
