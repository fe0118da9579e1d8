"""Save, load, wrap and export a model directory (model.keras and signature.json), for train and score alike."""
