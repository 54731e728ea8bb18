"""The charts of the report: functions from a profile to a `Chart`."""
