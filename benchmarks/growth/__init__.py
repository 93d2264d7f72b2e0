"""What a claim costs as the table grows, and how far the table grows. The figures of docs/growth.md come from here."""
