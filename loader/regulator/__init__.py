"""What the regulator is told: the half-yearly figures (NPR articles 10, 18), the monthly exchange file (article 24)."""
