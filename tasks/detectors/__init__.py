"""Everything that gives P(first class) for clips: each fits on train where it needs to, and scores."""

# Name -> (module, class), loaded by name so that a detector nobody asked for costs no import.
BASELINES = {
    "majority": ("tasks.detectors.majority", "Majority"),
    "loudness": ("tasks.detectors.loudness", "Loudness"),
    "mel_statistics": ("tasks.detectors.mel_statistics", "MelStatistics"),
}
