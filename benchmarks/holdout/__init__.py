"""An independent hold-out of the product's fit against log-log interpolation and a random forest."""
