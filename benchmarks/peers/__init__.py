"""One file for each package: ``fit(train, seed, watch, **options)`` returns a `Predictor`."""
