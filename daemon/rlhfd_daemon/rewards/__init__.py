"""Whether a reward can be trusted: summaries and tests over the samples of a run. Pure; without numpy or scipy."""
