"""Load forecasting: the value of a regular time series a day ahead, forecast at every position."""
