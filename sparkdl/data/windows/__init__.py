"""Cut time series into windows of past and horizon."""
