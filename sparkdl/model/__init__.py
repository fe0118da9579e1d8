"""Model: what a trained model is (a directory with model.keras and signature.json), for train and score alike."""
