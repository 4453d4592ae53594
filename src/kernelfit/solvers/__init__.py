"""From sums to a kernel: no pixel is seen here."""
