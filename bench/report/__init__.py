"""README, pages and the HTML report, written from records."""
