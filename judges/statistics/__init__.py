"""What verdicts say: rates with intervals, length control, agreement, files of results."""
