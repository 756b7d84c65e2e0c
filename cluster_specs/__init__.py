"""What hardware is: device, link and cluster specs, one TOML each."""
