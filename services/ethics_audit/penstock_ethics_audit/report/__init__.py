"""The report: one HTML page, its pictures, and the data behind them."""
