"""One file a package: ``fit(train, seed, watch, **options)`` returns a `Predictor`."""
