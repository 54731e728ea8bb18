"""Earlier runs on this machine: `runs` keeps them, `accuracy` and `calibration` say how far predictions were off."""
