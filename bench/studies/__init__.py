"""The evidence behind the pages: studies that run in a checkout and are not installed."""
